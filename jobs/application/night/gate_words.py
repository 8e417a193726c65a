"""The gate at the end of a run: which of its new words become public, and what is said of the others."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from jobs.application.requests import Listener
from pipeline.store.catalogue.accepted import (
    LEASE,
    JudgedWord,
    accept,
    accepted_of,
    is_gated,
    read_judged,
    roll_back,
    waiting,
    write_judged,
)
from pipeline.store.lease import lease
from pipeline.store.parts import read_layout, read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import StorageError
from pipeline.text_files import paragraph

if TYPE_CHECKING:
    from eval.nightly.acceptance import Judged, Rule
    from eval.scores.summary import Summary

SHOWN = 20


def begin_gate(run: RunFolder) -> None:
    """From now on, words of this folder pass the gate before they are public."""
    if is_gated(run):
        return
    with lease(run.storage, LEASE) as storage:
        run = RunFolder(storage)
        if not is_gated(run):  # another run may have begun it, and judged words, meanwhile
            write_judged(run, _public_so_far(run))


def _public_so_far(run: RunFolder) -> list[JudgedWord]:
    """The words of a folder that had no gate: accepted as they are, with their scores by the last run's protocol and CLIP."""
    public = set(run.storage.names("words"))
    if not public:
        return []
    from eval.nightly.acceptance import digest_of, judged_word
    from eval.scores.score_tables import CONDITIONS, SCORES, ScoredUnder
    from eval.scores.summary import OF_WORDS, summarise

    try:
        parts, made = read_layout(run), run.read_json("run.json")
    except StorageError:
        return []  # nothing has been published here
    words = read_parts(run, "embeddings", parts["embeddings"], pa.schema([EMBEDDINGS.field(name) for name in OF_WORDS]))
    scores = read_parts(run, "scores", parts["scores"], SCORES)
    unders = {ScoredUnder(**row) for row in scores.select(CONDITIONS).to_pylist()}
    mine = [each for each in unders if (each.protocol, each.clip) == (made.get("protocol"), made.get("clip"))]
    under, digest = (mine[0], digest_of(mine[0])) if len(mine) == 1 else (None, "")
    summary = summarise(scores if under else scores.slice(0, 0), words, (), np.random.default_rng(0), under)
    return [
        replace(judged_word(each, _now(), digest), state="accepted")
        for each in summary.concepts if f"{each.concept}.safetensors" in public
    ]  # fmt: skip


def gate_words(
    run: RunFolder,
    summary: "Summary",
    rule: "Rule",
    keep: int,
    events: Listener,
    step: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, str]:
    """Judges the candidates that have not been judged, publishes those that are accepted, and says so.

    step: called with the number of accepted words that are public, and of all. Returns the concepts that are held back, and why.
    """
    from eval.nightly.acceptance import digest_of, judge_words, judged_word

    if summary.scored_under is None:
        return {}
    under, now = digest_of(summary.scored_under), _now()
    with lease(run.storage, LEASE) as storage:
        run = RunFolder(storage)
        judged, candidates = read_judged(run), waiting(run)
        known = {(word.concept, word.fingerprint) for word in judged if word.state != "previous"}
        mine = [each for each in summary.concepts if each.concept in candidates]
        fresh = [each for each in mine if (each.concept, each.fingerprint) not in known]
        # Words that were public before there was a gate are accepted as they are.
        listed, public = {word.concept for word in judged}, set(run.storage.names("words"))
        before = [
            each for each in summary.concepts
            if each.concept not in listed | candidates and f"{each.concept}.safetensors" in public
        ]  # fmt: skip
        judged += [replace(judged_word(each, now, under), state="accepted") for each in before]
        verdicts = judge_words(fresh, accepted_of(judged), under, rule)
        rows = {each.concept: judged_word(each, now, under, verdicts.held.get(each.concept, "")) for each in fresh}
        held = [row for name, row in rows.items() if name in verdicts.held]
        others = [word for word in judged if not (word.state == "candidate" and word.concept in rows)]
        accepting = [row for name, row in rows.items() if name not in verdicts.held]
        if fresh or before:
            accept(run, [*others, *held], accepting, keep, step)
        for name, word in accepted_of(judged).items():
            if name in candidates and any(
                each.fingerprint == word.fingerprint for each in mine if each.concept == name
            ):
                run.storage.delete(run.candidate_path(name))  # a driver died after it had accepted the word
    waits = len(waiting(run)) - len(held)
    if fresh or waits:
        events.say(
            "gate", paragraph(_said(verdicts, len(accepting), waits)), accepted=[word.concept for word in accepting],
            held=dict(verdicts.held), waiting=waits,
        )  # fmt: skip
    return dict(verdicts.held)


def held_since(run: RunFolder, day: date) -> dict[str, str]:
    """Concept -> why its new word was held back on that day or later, and still is. So the same night twice says the same."""
    return {
        word.concept: word.reason
        for word in read_judged(run)
        if word.state == "candidate" and word.since >= day.isoformat()
    }


def promote(
    run: RunFolder,
    names: Sequence[str],
    keep: int,
    *,
    everything: bool = False,
    step: Callable[[int, int], None] = lambda *_: None,
) -> tuple[str, ...]:
    """Makes candidates public, whatever the gate said. step: as gate_words'. Returns their concepts.

    Raises ValueError for a name without a candidate, or whose file is gone.
    """
    with lease(run.storage, LEASE) as storage:
        run = RunFolder(storage)
        judged = read_judged(run)
        candidates = {word.concept: word for word in judged if word.state == "candidate"}
        if unknown := sorted(set(names) - candidates.keys()):
            has = f"candidates are {', '.join(sorted(candidates)[:SHOWN])}" if candidates else "there is no candidate"
            raise ValueError(f"--promote {unknown[0]}: no candidate of this name was judged in this run folder; {has}")
        chosen = sorted(candidates if everything else set(names))
        if gone := sorted(set(chosen) - waiting(run)):
            raise ValueError(f"--promote {gone[0]}: its file {run.candidate_path(gone[0])} is not there")
        accept(run, judged, [replace(candidates[name], since=_now()) for name in chosen], keep, step)
    return tuple(chosen)


def roll_back_words(run: RunFolder, names: Sequence[str]) -> None:
    """Raises ValueError for a concept without an earlier word; then nothing is changed."""
    with lease(run.storage, LEASE) as storage:
        held = RunFolder(storage)
        roll_back(held, read_judged(held), names)


def _now() -> str:
    """To the microsecond, because the words of a concept are ordered by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _said(verdicts: "Judged", accepted: int, waits: int) -> list[str]:
    def words(count: int) -> str:
        return f"{count} new word{'s' * (count != 1)}"

    lines = [f"gate      {words(accepted)} accepted, {len(verdicts.held)} held back as candidates"]
    if verdicts.again and verdicts.again < verdicts.fewest:
        lines.append(
            f"  too few to test over words: {verdicts.again} learned again, it takes {verdicts.fewest}; each was judged by itself"
        )
    lines += [
        f"  {each.metric} over {each.n} words learned again: {each.before:.4f} -> {each.after:.4f}, p = {each.p:.2g}"
        + (
            ""
            if math.isnan(each.detectable)
            else f"; a loss of {each.detectable:.4f} would have been noticed four times in five"
        )
        for each in verdicts.comparisons
        if verdicts.again >= verdicts.fewest
    ]
    lines += [f"  {name}: {why}" for name, why in sorted(verdicts.held.items())[:SHOWN]]
    lines += [f"  and {len(verdicts.held) - SHOWN} more"] if len(verdicts.held) > SHOWN else []
    if verdicts.held:
        lines.append("  jobs/promote.py RUN --promote NAME, or --promote-all, makes them public all the same")
    if waits:
        lines.append(f"  {waits} candidates wait from earlier runs")
    return lines
