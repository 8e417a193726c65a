"""A run's summary: its headline figures, and one row a concept.

A value that could not be computed is nan in a record, and null in tables and JSON.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from eval.judges.outside_metric import OutsideMetric
from eval.scores.confusion import Confusion
from eval.scores.metric import Column, Metric
from eval.scores.metric_table import METRICS, metric_of
from eval.scores.metrics import covered, interval
from eval.scores.score_tables import CONDITIONS, ScoredUnder, made_under, scores_of
from eval.scores.set_distance import SetDistance
from pipeline.inputs.repeats import REPEAT, REPEAT_OF
from pipeline.records import Failure, Score

BOUNDS = (
    "floor",
    "ceiling",
    "floor_noun",
    "floor_wordless",
)  # figures whose mean over concepts has no interval
# One minus the cosine between pictures from the same noise. With the shipped model, words of the demo have 0.2 and more, a
# word moved by a tenth of its length 0.005, an unmoved one 0.
NO_EFFECT = 0.01
# A word whose pictures are less than this share as varied as its training images always draws nearly the same picture; one whose
# pictures are less than this share of the way from the untrained word's to real ones is weak. `python -m jobs.bench.gate_rates RUN`
# prints what these limits say of words whose worth is known; docs/reference.md has its figures.
COLLAPSED, WEAK = 0.1, 0.3
FELL, COLLAPSES, NONE, IS_WEAK, UNSCORED, ALIKE = VERDICTS = (
    "fell", "collapsed", "no effect", "weak", "no score", "like its pictures",
)  # fmt: skip
# Columns of the embeddings that a summary is made of.
OF_WORDS = [
    "concept",
    "fingerprint",
    "placeholder",
    "class",
    "kind",
    "steps",
    "seconds",
    "stopped_by",
    "carried",
    "stated",
]


@dataclass(frozen=True, slots=True)
class ConceptSummary:
    """One concept in one row.

    reconstruction: mean image similarity, with its 95 % interval over the images; covered: its share of the distance from floor to
    ceiling. editability: mean text similarity over the edit prompts, with floor and ceiling likewise.
    ..._floor_noun, ..._floor_wordless: the same figures for the plain prompt with the class, or with nothing, in place of the
    word. noun: the manifest's `class`. seconds: of training.
    diversity: of the plain prompt's pictures; its ceiling is that of the training images. nearest_own: the share of the plain
    prompt's pictures that are nearer to their own training images than to any other concept's; nan if the concept was not compared.
    effect: distance of its pictures from those of the untrained word; see NO_EFFECT. more: columns of metrics without a field here.
    fell: it is a candidate, and worse than the accepted word of its concept. stated: what an imported word's file says of it.
    """

    concept: str
    fingerprint: str
    placeholder: str
    noun: str | None
    kind: str
    reconstruction: float
    reconstruction_low: float
    reconstruction_high: float
    reconstruction_floor: float
    reconstruction_ceiling: float
    covered: float
    editability: float
    editability_floor: float
    editability_ceiling: float
    editability_covered: float
    steps: int
    seconds: float
    stopped_by: str
    carried: Mapping[str, str] = field(default_factory=dict)
    diversity: float = math.nan
    diversity_ceiling: float = math.nan
    subject_fidelity: float = math.nan
    nearest_own: float = math.nan
    effect: float = math.nan
    reconstruction_floor_noun: float = math.nan
    reconstruction_floor_wordless: float = math.nan
    editability_floor_noun: float = math.nan
    editability_floor_wordless: float = math.nan
    more: Mapping[str, float] = field(default_factory=dict)
    fell: bool = False
    stated: Mapping[str, str] = field(default_factory=dict)

    def figure(self, name: str) -> float:
        """The figure with this name: one of metric_table.COLUMNS, or a field."""
        value: float = self.more[name] if name in self.more else getattr(self, name, math.nan)
        return value

    @property
    def repeat_of(self) -> str:
        """The concept that this is a word of: another name than its own for a repeat."""
        return self.carried.get(REPEAT_OF, self.concept)

    @property
    def repeat(self) -> str:
        """ "1", "2", ... of the repeats of a concept."""
        return self.carried.get(REPEAT, "1")

    @property
    def no_effect(self) -> bool:
        """True if the word draws the same as its initializer."""
        return self.effect < NO_EFFECT

    @property
    def verdict(self) -> str:
        """What the word has come to, in plain words: one of VERDICTS, which has the worst first."""
        if math.isnan(self.reconstruction):
            return UNSCORED
        if self.fell:
            return FELL
        if self.no_effect:
            return NONE
        if self.diversity < COLLAPSED * self.diversity_ceiling:
            return COLLAPSES
        above = self.covered if not math.isnan(self.covered) else self.reconstruction - self.reconstruction_floor
        return IS_WEAK if above < (WEAK if not math.isnan(self.covered) else 0) else ALIKE


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic over `n` concepts with its 95 % interval over them; nan below two concepts."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure differs between the repeats of the same concepts: standard deviations over the training seeds.

    seeds: how many. n: concepts that have the figure for each of them. of_mean: of the statistic over the concepts. of_word: of one
    concept's figure, as the root of the mean variance.
    """

    seeds: int
    n: int
    of_mean: float
    of_word: float


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run.

    done: concepts with a word and no failure; failed: concepts with a failure; unscored: done, but without a score.
    retired: words that are kept and no longer of the manifest; nothing else here counts them.
    covered, editability_covered: medians over concepts; all other figures are means over concepts.
    difficulties: class of difficulty -> text similarity of its prompts, if the protocol has such classes.
    cmmd: distance of the set of all pictures from that of all training images, if their features were kept.
    more: the headline columns of metrics without a field here, and the means of their floors and ceilings.
    metrics: those that the figures are of: the table's, and those from outside.
    repeats: headline column -> how it differs between training seeds, if the concepts were learned several times. All figures
    over concepts take the mean of a concept's repeats first.
    """

    done: int
    failed: int
    unscored: int
    covered: Estimate
    reconstruction: Estimate
    reconstruction_floor: float
    reconstruction_ceiling: float
    editability: Estimate
    editability_floor: float
    editability_ceiling: float
    editability_covered: Estimate
    scored_under: ScoredUnder | None
    concepts: tuple[ConceptSummary, ...]
    diversity: Estimate = NOTHING
    diversity_ceiling: float = math.nan
    subject_fidelity: Estimate = NOTHING
    confusion: Confusion | None = None
    difficulties: Mapping[str, Estimate] = field(default_factory=dict)
    reconstruction_floor_noun: float = math.nan
    reconstruction_floor_wordless: float = math.nan
    editability_floor_noun: float = math.nan
    editability_floor_wordless: float = math.nan
    more: Mapping[str, Estimate | float] = field(default_factory=dict)
    retired: int = 0
    cmmd: SetDistance | None = None
    metrics: tuple[Metric, ...] = METRICS
    repeats: Mapping[str, Spread] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for metric in self.metrics for column in metric.columns)

    def estimate(self, name: str) -> Estimate:
        """A headline column of metric_table.METRICS over the concepts."""
        value = self.more.get(name, getattr(self, name, NOTHING))
        return value if isinstance(value, Estimate) else NOTHING

    def mean(self, name: str) -> float:
        """The mean of another column over the concepts; nan if it is not summarised."""
        value = self.more.get(name, getattr(self, name, math.nan))
        return value if isinstance(value, float) else math.nan


def summarise(
    scores: pa.Table,
    embeddings: pa.Table,
    failures: Sequence[Failure],
    rng: np.random.Generator,
    under: ScoredUnder | None = None,
    confusion: Confusion | None = None,
    outside: Sequence[OutsideMetric] = (),
) -> Summary:
    """Summarises a run.

    scores: a table of SCORES. Rows of an older word (another fingerprint) are ignored, so a concept that was learned again since
    counts as unscored.
    embeddings: pipeline.store.run_tables.EMBEDDINGS, a row per concept and text encoder.
    rng: resamples the concepts for the intervals.
    under: the conditions whose scores are summarised; needed if there are several.
    confusion: of the same words, if their features were kept.
    outside: metrics from outside that were computed, of these versions.

    Raises ValueError if the scores were made under several protocols, models, CLIPs or samplers and `under` is None, if a score
    occurs twice, or if a concept has two words.
    """
    words = _current_words(embeddings)
    known = {(name, word["fingerprint"]) for name, word in words.items()}
    made = scores if under is None else made_under(scores, under)
    of_words = zip(made["concept"].to_pylist(), made["fingerprint"].to_pylist(), strict=True)
    current = made.filter(pa.array([key in known for key in of_words], pa.bool_()))
    metrics = (*METRICS, *map(metric_of, outside))
    versions = {(metric.name, metric.version) for metric in metrics}
    of_metrics = zip(current["metric"].to_pylist(), current["metric_version"].to_pylist(), strict=True)
    current = current.filter(pa.array([key[1] is None or key in versions for key in of_metrics], pa.bool_()))
    under = under or _only_conditions(current)
    by_concept: dict[str, dict[tuple[str, str], Score]] = {}
    for score in scores_of(current):
        mine = by_concept.setdefault(score.concept, {})
        if (score.metric, score.prompt) in mine:
            raise ValueError(f"{score.concept} has two scores of {score.metric} at {score.prompt!r}")
        mine[score.metric, score.prompt] = score
    nearest = confusion.by_concept if confusion else {}
    concepts = tuple(
        _concept(words[name], list(by_concept.get(name, {}).values()), nearest.get(name, math.nan), metrics)
        for name in sorted(words)
    )
    failed = {failure.concept for failure in failures}

    def column(name: str) -> np.ndarray:
        return values_of(concepts, name)

    own = {each.name for each in fields(Summary)}
    headline = [
        (name, np.median if name in metric.medians else np.mean) for metric in metrics for name in metric.headline
    ]
    # New figures use rng last, so that the intervals of old runs stay as reported.
    estimates = {name: _estimate(column(name), statistic, rng) for name, statistic in headline if name in own}
    difficulties = _difficulties(current, {each.concept: each.repeat_of for each in concepts}, rng)
    estimates |= {name: _estimate(column(name), statistic, rng) for name, statistic in headline if name not in own}
    bounds = [each for metric in metrics for each in metric.columns if each.of in BOUNDS]
    means = {each.name: _mean(column(each.name)) for each in bounds}
    figures: dict[str, Any] = {**means, **estimates}
    return Summary(
        done=len(words.keys() - failed),
        failed=len(failed),
        unscored=len(words.keys() - failed - by_concept.keys()),
        scored_under=under,
        concepts=concepts,
        confusion=confusion,
        difficulties=difficulties,
        more={name: value for name, value in figures.items() if name not in own},
        metrics=metrics,
        repeats={name: spread for name, statistic in headline if (spread := _spread(concepts, name, statistic))},
        **{name: value for name, value in figures.items() if name in own},
    )


def _current_words(embeddings: pa.Table) -> dict[str, dict[str, Any]]:
    """Concept -> the row of one of its text encoders, without the vectors."""
    words: dict[str, dict[str, Any]] = {}
    for row in embeddings.select(OF_WORDS).to_pylist():
        known = words.setdefault(row["concept"], row)
        if known["fingerprint"] != row["fingerprint"]:
            digests = f"{known['fingerprint']} and {row['fingerprint']}"
            raise ValueError(f"{row['concept']} has two words, {digests}: pass the current one")
    return words


def _conditions(row: Mapping[str, Any]) -> ScoredUnder:
    return ScoredUnder(**{name: row[name] for name in CONDITIONS})


def _only_conditions(scores: pa.Table) -> ScoredUnder | None:
    conditions = {_conditions(row) for row in scores.select(CONDITIONS).to_pylist()}
    if len(conditions) > 1:
        differing = [name for name in CONDITIONS if len({getattr(each, name) for each in conditions}) > 1]
        raise ValueError(f"these scores cannot be put together: they differ in {', '.join(differing)}")
    return conditions.pop() if conditions else None


def mean_of(concepts: Sequence[ConceptSummary], figure: str, rng: np.random.Generator) -> Estimate:
    """The statistic of a figure of ConceptSummary over the concepts that have it; rng resamples the concepts."""
    return _estimate(values_of(concepts, figure), np.mean, rng)


def values_of(words: Sequence[ConceptSummary], figure: str) -> np.ndarray:
    """A figure of each concept that has it, as the mean over its repeats."""
    values: dict[str, list[float]] = {}
    for word in words:
        if not math.isnan(value := word.figure(figure)):
            values.setdefault(word.repeat_of, []).append(value)
    return np.array([np.mean(some) for some in values.values()], np.float64)


def _spread(words: Sequence[ConceptSummary], figure: str, statistic: Callable[..., Any]) -> Spread | None:
    """None without repeats, or if no concept has the figure for all of them."""
    seeds = {word.repeat for word in words}
    values: dict[str, list[float]] = {}
    for word in sorted(words, key=lambda word: (word.repeat_of, word.repeat)):
        values.setdefault(word.repeat_of, []).append(word.figure(figure))
    table = np.array([some for some in values.values() if len(some) == len(seeds) and not np.isnan(some).any()])
    if len(seeds) < 2 or not len(table):
        return None
    of_mean = float(np.std(statistic(table, axis=0), ddof=1))
    return Spread(len(seeds), len(table), of_mean, float(np.sqrt(table.var(axis=1, ddof=1).mean())))


def _difficulties(scores: pa.Table, repeat_of: Mapping[str, str], rng: np.random.Generator) -> dict[str, Estimate]:
    """The mean over concepts, each with its mean over the prompts of that class; rng resamples the concepts."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in scores.select(["concept", "difficulty", "value"]).to_pylist():
        if row["difficulty"] and row["value"] is not None:
            values.setdefault(row["difficulty"], {}).setdefault(repeat_of[row["concept"]], []).append(row["value"])
    return {
        name: _estimate(np.array([np.mean(some) for some in values[name].values()]), np.mean, rng)
        for name in sorted(values)
    }


def _concept(
    word: Mapping[str, Any], scores: Sequence[Score], nearest_own: float, metrics: Sequence[Metric]
) -> ConceptSummary:
    figures: dict[str, Any] = {name: value for metric in metrics for name, value in _figures(metric, scores).items()}
    own = {each.name for each in fields(ConceptSummary)}
    return ConceptSummary(
        concept=word["concept"], fingerprint=word["fingerprint"], placeholder=word["placeholder"], noun=word["class"],
        kind=word["kind"], steps=word["steps"], seconds=word["seconds"], stopped_by=word["stopped_by"],
        carried=dict(word["carried"] or ()), stated=dict(word["stated"] or ()), nearest_own=nearest_own,
        more={name: value for name, value in figures.items() if name not in own},
        **{name: value for name, value in figures.items() if name in own},
    )  # fmt: skip


def _figures(metric: Metric, scores: Sequence[Score]) -> dict[str, float]:
    """The metric's columns of one concept, as means over its prompts."""
    mine = [score for score in scores if score.metric == metric.name]
    parts = ("value", "low", "high", "floor", "ceiling", "floor_noun", "floor_wordless")
    means = {part: _mean(np.array([getattr(score, part) for score in mine])) for part in parts}
    means["covered"] = covered(means["value"], means["floor"], means["ceiling"])
    return {column.name: means[column.of] for column in metric.columns}


def _estimate(values: np.ndarray, statistic: Callable[..., Any], rng: np.random.Generator) -> Estimate:
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan, 0)
    return Estimate(float(statistic(values)), *interval(values, rng, statistic), len(values))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
