"""Scores one concept's pictures with all metrics of metric_table.py, each with its floor and ceiling."""

from collections.abc import Iterator

import numpy as np

from eval.judges.judge import AnsweringJudge, ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Measurement, Metric
from eval.scores.metric_table import METRICS
from eval.scores.metrics import covered, mean
from pipeline.records import SampleKind, Score

# Kinds of plain-prompt pictures that use neither the learned nor the untrained word.
FLOORS: tuple[SampleKind, ...] = ("noun", "wordless")


def score_concept(encoded: Encoded, judge: ClipScorer | AnsweringJudge | None, rng: np.random.Generator) -> list[Score]:
    """All scores of one concept, in the order of the metrics; text_similarity has one for each edit prompt.

    floor_noun and floor_wordless of each score: the same metric for the plain prompt with the class (or the initializer) in place
    of the word, and with nothing in its place.

    judge: reads the prompts; None for a model that knows only pictures, which has no text_similarity. A vision-language judge has
    the metrics that are answered, and no others.
    rng: resamples the images for the intervals. It is derived from the concept, so that its scores do not depend on the others.

    Raises ValueError if a prompt has no text besides the word.
    """
    mine = [metric for metric in METRICS if metric.answered == isinstance(judge, AnsweringJudge)]
    return [score for metric in mine for score in score_metric(encoded, metric, judge, rng)]


def score_metric(
    encoded: Encoded, metric: Metric, judge: ClipScorer | AnsweringJudge | None, rng: np.random.Generator
) -> Iterator[Score]:
    """The scores of one metric. Raises what the metric raises: MetricError for one from outside."""
    return (_score(encoded, metric, measured, rng) for measured in metric.measure(encoded, judge))


def _score(encoded: Encoded, metric: Metric, measured: Measurement, rng: np.random.Generator) -> Score:
    if encoded.avoids and not metric.of_negative:
        nothing = np.full(len(measured.values), np.nan)
        measured = Measurement(measured.prompt, nothing, np.nan, np.nan)
    value, (low, high) = mean(measured.values), metric.interval(measured.values, rng)
    share = covered(value, measured.floor, measured.ceiling)
    noun, wordless = (mean(measured.without_word(encoded.of(kind))) for kind in FLOORS)
    return Score(
        encoded.concept, measured.prompt, metric.name, value, len(measured.values), low, high, measured.floor, measured.ceiling,
        share, noun, wordless, metric.version,
    )  # fmt: skip
