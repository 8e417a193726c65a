"""The results of every night: history/*.parquet, one row per concept, one file per night and conditions of scoring.

Nights are compared if they were scored with the same protocol, CLIP and sampler. The model may differ, because the gate must
notice a worse model. A night's file depends only on its scores, so that the same night twice writes the same bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eval.nightly.gate import Change, Comparison, Pairs, compare, paired
from eval.scores.score_tables import CONDITIONS, ScoredUnder, with_nan, without_nan
from eval.scores.summary import ConceptSummary, Estimate, mean_of
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.parquet.parquet_tables import data_of, stored_table
from pipeline.store.parts import conformed
from pipeline.store.run_tables import KEY
from pipeline.store.storage import Storage

METRICS = ("reconstruction", "editability", "diversity")
# The two metrics that the gate tests. Diversity is not one of them: it may fall as a word is learned better.
GATED = ("reconstruction", "editability")
HISTORY = pa.schema([
    ("night", pa.string()), ("good", pa.bool_()), *KEY, ("group", pa.string()),
    *((metric, pa.float64()) for metric in METRICS), ("covered", pa.float64()),
    *((name, pa.int64() if name == "sampler_steps" else pa.float64() if name == "guidance" else pa.string())
      for name in CONDITIONS),
])  # fmt: skip
NIGHT = re.compile(r"[0-9A-Za-z][0-9A-Za-z.:_-]{0,40}")
VERDICT = b"wordmint"
# With the same weights, another CPU or GPU is assumed to change a cosine by less than the first and a picture by less
# than the second.
JUDGED_DRIFT, DRAWN_DRIFT = 1e-3, 5e-3
SMALLEST_GROUP = 10  # concepts; smaller groups are reported but not tested


@dataclass(frozen=True, slots=True)
class CanaryReading:
    """since: the night whose scores these pictures are compared with. pictures: how many.

    judged: the largest change of image similarity of a kept picture. drawn: the mean distance, one minus the cosine, between
    a kept picture and the same one drawn tonight; nan where nothing was drawn.
    """

    since: str
    pictures: int
    judged: float
    drawn: float

    def reasons(self) -> list[str]:
        """One sentence for each thing that has drifted."""
        sentences = []
        if self.judged > JUDGED_DRIFT:
            sentences.append(
                f"the canary's kept pictures are judged otherwise than on {self.since}, by up to {self.judged:.4f}: "
                "the CLIP, its preprocessing or a library has changed"
            )
        if self.drawn > DRAWN_DRIFT:
            sentences.append(
                f"the canary's words draw other pictures than on {self.since}, by a cosine distance of {self.drawn:.4f}: "
                "the model's weights, the scheduler or a library has changed"
            )
        return sentences


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a night.

    estimates: metric -> its mean over concepts. against: the good night it was compared with, None for the first.
    reasons: why it is not good, a sentence each. baseline: the fixed night that all later ones are compared with. erosion: the
    changes since the baseline. If the baseline is the night `against`, these are None and empty.
    """

    night: str
    good: bool
    concepts: int
    estimates: Mapping[str, Estimate]
    against: str | None
    drop: float | None
    comparisons: tuple[Comparison, ...]
    canary: CanaryReading | None
    reasons: tuple[str, ...]
    baseline: str | None = None
    erosion: tuple[Comparison, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether the gate raised an alarm; a night is not good either if words have no score."""
        drifted = self.drop is not None and self.canary is not None and bool(self.canary.reasons())
        return drifted or any(each.alarm for each in (*self.comparisons, *self.erosion))


class History:
    """The nights in a folder that were scored under the conditions `under`."""

    def __init__(self, folder: Storage, under: ScoredUnder) -> None:
        self._folder = folder
        alike = {name: value for name, value in asdict(under).items() if name not in ("model", "model_digest")}
        digest = hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:8]
        self._suffix = f"@{under.protocol}@{digest}.parquet"
        self._under = under

    def nights(self) -> list[str]:
        """All nights, sorted by name."""
        names = (name.removesuffix(self._suffix) for name in self._folder.names() if name.endswith(self._suffix))
        return [name for name in names if NIGHT.fullmatch(name)]

    def verdicts(self, most: int = 90) -> list[Verdict]:
        """The verdicts of the last nights, oldest first."""
        read = (self._read(night) for night in self.nights()[-most:])
        return [each[1] for each in read if each is not None]

    def last_good(self, before: str) -> tuple[str, pa.Table] | None:
        return self._first_good(reversed([night for night in self.nights() if night < before]))

    def baseline(self, before: str, chosen: str | None = None) -> tuple[str, pa.Table] | None:
        """The chosen night, good or not, or else the first good one. Raises ValueError if the chosen one was never scored, or its
        file is damaged.
        """
        nights = [night for night in self.nights() if night < before]
        if chosen is None:
            return self._first_good(iter(nights))
        if chosen not in nights:
            listed = f"the last are {', '.join(nights[-5:])}" if nights else "there is none"
            raise ValueError(f"the baseline {chosen!r} is no night before {before} that was scored this way; {listed}")
        if (read := self._read(chosen)) is None:
            raise ValueError(
                f"the baseline {chosen!r} cannot be used: {chosen}{self._suffix} is damaged; choose another"
            )
        return chosen, read[0]

    def _first_good(self, nights: Iterator[str]) -> tuple[str, pa.Table] | None:
        for night in nights:
            read = self._read(night)
            if read is not None and len(read[0]) and read[0]["good"][0].as_py():
                return night, read[0]
        return None

    def record(self, verdict: Verdict, concepts: Sequence[ConceptSummary], groups: Mapping[str, str]) -> None:
        rows = [
            {"night": verdict.night, "good": verdict.good, "concept": each.concept, "fingerprint": each.fingerprint,
             "group": groups.get(each.concept), "covered": each.covered, **asdict(self._under),
             **{metric: getattr(each, metric) for metric in METRICS}}
            for each in sorted(concepts, key=lambda each: each.concept)
        ]  # fmt: skip
        table = pa.Table.from_pylist([without_nan(row) for row in rows], HISTORY)
        metadata = {VERDICT: json.dumps(_without_nan_deep(asdict(verdict)), sort_keys=True).encode()}
        self._folder.write_bytes(verdict.night + self._suffix, data_of(table.replace_schema_metadata(metadata)))

    def _read(self, night: str) -> tuple[pa.Table, Verdict] | None:
        """HISTORY and the verdict; None for a damaged file, which is named in the log: the night counts as not scored."""
        path = night + self._suffix
        try:
            table = stored_table(self._folder, path)
            verdict = _verdict_of((table.schema.metadata or {})[VERDICT])
            if verdict.night != night:
                raise ValueError(f"it is of the night {verdict.night!r}")
            return conformed(table, HISTORY), verdict
        except (DamagedFileError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError) as error:
            say_damaged(path, str(error))
            return None


def judge_night(
    history: History,
    night: str,
    concepts: Sequence[ConceptSummary],
    groups: Mapping[str, str],
    drop: float | None,
    canary: CanaryReading | None,
    *,
    words: int = 0,
    baseline: str | None = None,
    listed: Collection[str] | None = None,
) -> Verdict:
    """Compares tonight with the last good night before it, and with a baseline, because small losses on many nights add up.

    groups: concept -> its group, {} without groups. drop: see `eval.nightly.gate.compare`; None compares, but no loss makes the
    night a bad one. words: the number of words expected; `concepts` may lack some. baseline: a night; None is the first good one.
    listed: the concepts of tonight's manifest, if known; words of rows that are gone are not missed.
    Raises ValueError for a baseline that was never scored.
    """
    last, first = history.last_good(night), history.baseline(night, baseline)
    if last is not None and first is not None and first[0] == last[0]:
        first = None
    newest = _pairs(last[1], concepts, groups) if last else []
    oldest = _pairs(first[1], concepts, groups) if first else []
    compared = compare([*newest, *oldest], math.inf if drop is None else drop) if newest or oldest else ()
    comparisons, erosion = compared[: len(newest)], compared[len(newest) :]
    scored = sum(not math.isnan(each.reconstruction) for each in concepts)
    reasons = _missing(scored, max(words, len(concepts)), last, listed)
    reasons += [_reason(each, last[0]) for each in comparisons if each.alarm and last]
    reasons += [_reason(each, first[0]) for each in erosion if each.alarm and first]
    if canary is not None and drop is not None:
        reasons += canary.reasons()
    estimates = {metric: mean_of(concepts, metric, np.random.default_rng(0)) for metric in METRICS}
    return Verdict(
        night, not reasons, scored, estimates, last[0] if last else None, drop, comparisons, canary, tuple(reasons),
        first[0] if first else None, erosion,
    )  # fmt: skip


def _missing(scored: int, words: int, last: tuple[str, pa.Table] | None, listed: Collection[str] | None) -> list[str]:
    """Reasons that make the night bad because words have no score, a sentence each."""
    sentences = []
    if not words:
        sentences.append("there is no word to score")
    elif scored < words:
        sentences.append(f"{words - scored} of {words} words have no score")
    rows = [] if last is None else last[1].select(["concept", "reconstruction"]).to_pylist()
    before = sum(row["reconstruction"] is not None and (listed is None or row["concept"] in listed) for row in rows)
    if last is not None and scored < before:
        sentences.append(
            f"{before - scored} words fewer have a score than on {last[0]}: {scored}, where there were {before}; "
            "if this is intended, start another --history"
        )
    return sentences


def _pairs(before: pa.Table, after: Sequence[ConceptSummary], groups: Mapping[str, str]) -> list[Pairs]:
    """The pairs of all concepts, then of each group that is large enough."""
    earlier = [with_nan(row) for row in before.select(["concept", "fingerprint", *GATED]).to_pylist()]
    pairs = []
    for metric in GATED:
        one = {row["concept"]: (row["fingerprint"], row[metric]) for row in earlier}
        other = {each.concept: (each.fingerprint, getattr(each, metric)) for each in after}
        pairs.append(paired(metric, "", one, other))
        for group in sorted(set(groups.values())):
            mine = {name: score for name, score in other.items() if groups.get(name) == group}
            some = paired(metric, group, one, mine)
            if len(some.names) >= SMALLEST_GROUP:
                pairs.append(some)
    return pairs


def _reason(comparison: Comparison, since: str) -> str:
    of = f" of {comparison.group!r}" if comparison.group else ""
    lowest = ", ".join(f"{each.concept} {each.before:.3f} -> {each.after:.3f}" for each in comparison.lowest)
    return (
        f"{comparison.metric}{of} fell from {comparison.before:.4f} to {comparison.after:.4f} over {comparison.n} concepts "
        f"learned again since {since} (p = {comparison.p:.2g}); most of all {lowest}"
    )


def _without_nan_deep(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _without_nan_deep(each) for name, each in value.items()}
    return [_without_nan_deep(each) for each in value] if isinstance(value, list | tuple) else value


def _verdict_of(data: bytes) -> Verdict:
    stored = json.loads(data)
    comparisons, erosion = (
        tuple(
            Comparison(**{**with_nan(each), "lowest": tuple(Change(**one) for one in each["lowest"])})
            for each in stored.get(name, ())  # files of older versions have no erosion
        )
        for name in ("comparisons", "erosion")
    )
    estimates = {name: Estimate(**with_nan(each)) for name, each in stored["estimates"].items()}
    canary = CanaryReading(**with_nan(stored["canary"])) if stored["canary"] else None
    return Verdict(**{**stored, "estimates": estimates, "comparisons": comparisons, "erosion": erosion, "canary": canary,
                      "reasons": tuple(stored["reasons"])})  # fmt: skip
