"""Writes a run's report/ from its tables and grids: the page, the headline figures and one row a concept."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.judges.outside_metric import OutsideMetric
from eval.pairs.pair_summary import pairs_json, read_pairs
from eval.report.report_page import Background, render_report
from eval.report.summary_files import concept_rows, repeat_rows, summary_json
from eval.scores.confusion import FEATURES, confusion_over, features_of
from eval.scores.score_tables import SCORES, ScoredUnder
from eval.scores.set_distance import set_distance_of
from eval.scores.summary import OF_WORDS, Summary, summarise
from pipeline.inputs.repeats import REPEAT
from pipeline.records import Failure
from pipeline.store.catalogue.accepted import JudgedWord, accepted_of, read_judged
from pipeline.store.catalogue.carried import GROUP_ROWS, carried_table, refresh_carried, types_of, with_carried
from pipeline.store.catalogue.listed import listed, read_lists
from pipeline.store.catalogue.retired import retired_names
from pipeline.store.events import read_events
from pipeline.store.locations import all_without_credentials
from pipeline.store.parts import conformed, part_path, read_layout, read_parts, read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS, FAILURES
from pipeline.store.storage import StorageError, StorageUnavailableError, without_credentials

MOST_GRID_BYTES = 100_000_000


class Grids(Mapping[str, bytes]):
    """A run's grids by concept, each read on access, because a hundred thousand of them are tens of gigabytes."""

    def __init__(self, run: RunFolder, step: Callable[[int, int], None] = lambda *_: None) -> None:
        """step: called with the number of grids that were read, and of all."""
        self._run, self._step, self._read = run, step, 0
        self._names = {name.removesuffix(".png") for name in run.storage.names("grids")}

    def __getitem__(self, concept: str) -> bytes:
        if concept not in self._names:
            raise KeyError(concept)
        self._read += 1
        self._step(self._read, len(self._names))
        try:
            return self._run.storage.read_bytes(self._run.grid_path(concept), at_most=MOST_GRID_BYTES)
        except StorageUnavailableError:
            raise
        except StorageError:
            return b""  # deleted since it was listed, too large, or not a file: the report leaves it out

    def __contains__(self, concept: object) -> bool:
        return concept in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def summarise_run(run: RunFolder, under: ScoredUnder, outside: Sequence[OutsideMetric] = ()) -> Summary:
    """The summary of the scores made `under` these conditions, and by these metrics from outside."""
    parts = read_layout(run)
    embeddings = read_parts(run, "embeddings", parts["embeddings"], pa.schema([EMBEDDINGS.field(n) for n in OF_WORDS]))
    scores = read_parts(run, "scores", parts["scores"], SCORES)
    drawn_against = set(embeddings.filter(pc.equal(embeddings["kind"], "negative"))["concept"].to_pylist())
    # Repeats have the same training images, so that none of them could be recognised.
    rows = zip(embeddings["concept"].to_pylist(), embeddings["carried"].to_pylist(), strict=True)
    again = {name for name, carried in rows if not _is_first(carried)}
    features = read_features(run, parts["scores"], under, drawn_against | again)
    confusion = confusion_over(features_of(features))
    summary = summarise(scores, embeddings, read_failures(run), np.random.default_rng(0), under, confusion, outside)
    judged = read_judged(run)
    accepted = accepted_of(judged)
    fell = {
        (word.concept, word.fingerprint)
        for word in judged
        if word.state == "candidate" and _is_worse(word, accepted.get(word.concept))
    }
    concepts = tuple(replace(each, fell=(each.concept, each.fingerprint) in fell) for each in summary.concepts)
    return replace(
        summary,
        concepts=concepts,
        cmmd=set_distance_of(features.to_pylist()),
        retired=len(retired_names(run, listed(read_lists(run)))),
    )


def _is_worse(word: JudgedWord, accepted: JudgedWord | None) -> bool:
    if accepted is None or word.reconstruction is None or accepted.reconstruction is None:
        return False
    return word.scored_under == accepted.scored_under and word.reconstruction < accepted.reconstruction


def carried_columns(run: RunFolder) -> set[str]:
    """The manifest's own columns, as the run's words carry them."""
    parts = read_layout(run)["embeddings"]
    table = read_parts(run, "embeddings", parts, pa.schema([EMBEDDINGS.field("carried")]))
    return {name for carried in table["carried"].to_pylist() for name, _ in carried or ()}


def first_words(run: RunFolder) -> list[str]:
    """The concepts that the run has a word of; without repeats."""
    columns = pa.schema([EMBEDDINGS.field("concept"), EMBEDDINGS.field("carried")])
    table = read_parts(run, "embeddings", read_layout(run)["embeddings"], columns)
    rows = zip(table["concept"].to_pylist(), table["carried"].to_pylist(), strict=True)
    return sorted({name for name, carried in rows if _is_first(carried)})


def _is_first(carried: Sequence[tuple[str, str]] | None) -> bool:
    """Whether a word with these carried columns is no repeat."""
    return dict(carried or ()).get(REPEAT, "1") == "1"


def write_report(
    run: RunFolder,
    under: ScoredUnder,
    configuration: Mapping[str, Any],
    background: Background | None = None,
    outside: Sequence[OutsideMetric] = (),
    step: Callable[[int, int], None] = lambda *_: None,
) -> Summary:
    """background: what the run itself does not hold, such as earlier nights. step: of Grids."""
    summary = summarise_run(run, under, outside)
    title = "wordmint: " + without_credentials(run.storage.url).rstrip("/").rsplit("/", 1)[-1]
    plain = all_without_credentials(configuration, run.storage.options)  # an older run.json may have some
    pairs = read_pairs(run, under)
    background = replace(background or Background(), events=read_events(run), pairs=pairs)
    page = render_report(summary, Grids(run, step), read_failures(run), plain, title, background)
    run.storage.write_bytes("report/index.html", page.encode())
    run.write_json("report/summary.json", summary_json(summary) | ({"pairs": pairs_json(pairs)} if pairs else {}))
    of_words = {word.concept: word.carried for word in summary.concepts}
    carried = carried_table(of_words, types_of([one.types for one in read_lists(run)]))
    refresh_carried(run, carried, read_layout(run))
    tables = {"concepts": with_carried(concept_rows(summary), carried), "repeats": repeat_rows(summary)}
    for name, table in tables.items():
        if table is None:
            run.storage.delete(f"report/{name}.parquet")
        else:
            write_table(run, f"report/{name}.parquet", table, GROUP_ROWS)
    return summary


def counts_said(summary: Summary) -> str:
    """What has become of the manifest's concepts, in the words of every command."""
    retired = f", {summary.retired} retired" if summary.retired else ""
    return f"{summary.done} concepts done, {summary.failed} failed{retired}"


def headline(summary: Summary) -> str:
    """The two most important figures, each with the floor and ceiling that its protocol gives."""
    way = "" if math.isnan(summary.covered.value) else f": a median of {summary.covered.value:.0%} of the way"
    likeness = {"untrained words": summary.reconstruction_floor, "real pictures": summary.reconstruction_ceiling}
    obedience = {
        "pictures without the edit": summary.editability_floor,
        "the edit without a learned word": summary.editability_ceiling,
    }
    return (
        f"reconstruction {summary.reconstruction.value:.3f}{_beside(likeness)}{way}\n"
        f"editability    {summary.editability.value:.3f}{_beside(obedience)}{spread_said(summary)}"
    )


def _beside(figures: Mapping[str, float]) -> str:
    return "".join(f", {name} {value:.3f}" for name, value in figures.items() if not math.isnan(value))


def spread_said(summary: Summary) -> str:
    """The spread of the two between training seeds, "" without repeats."""
    known = [(name, summary.repeats[name]) for name in ("reconstruction", "editability") if name in summary.repeats]
    said = [f"{name} {each.of_mean:.4f} of the mean, {each.of_word:.4f} of one word" for name, each in known]
    return f"\nstandard deviation over {known[0][1].seeds} training seeds: {'; '.join(said)}" if known else ""


def read_features(run: RunFolder, parts: int, under: ScoredUnder, leave_out: Collection[str]) -> pa.Table:
    """Of the first part that has features: which concepts it holds is decided by their names' digests alone.

    leave_out: concepts whose pictures are not meant to be like their training images, those of negative words; and repeats.
    """
    for number in range(parts):
        table = read_table(run, part_path("features", number, parts))
        if table is not None:
            made = pc.and_(
                pc.equal(table["protocol"], under.protocol), pc.equal(table["clip_digest"], under.clip_digest)
            )
            rows = conformed(table.filter(made), FEATURES)
            return rows.filter(pc.invert(pc.is_in(rows["concept"], pa.array(sorted(leave_out), pa.string()))))
    return FEATURES.empty_table()


def read_failures(run: RunFolder) -> list[Failure]:
    return [
        Failure(row["concept"], row["stage"], without_credentials(row["reason"]), row["attempts"])
        for row in read_parts(run, "failures", 1, FAILURES).to_pylist()
    ]
