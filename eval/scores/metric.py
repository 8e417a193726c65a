"""The record that defines a metric: how it is computed, its floor and ceiling, and where it is shown."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eval.scores.encoded import Encoded
from eval.scores.metrics import Floats, interval
from pipeline.protocols import Protocol

Part = Literal["value", "low", "high", "floor", "ceiling", "covered", "floor_noun", "floor_wordless"]


def no_floor(_: Floats) -> Floats:
    return np.empty(0)


def always(_: Protocol, __: bool) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric's values at one prompt: one score.

    prompt: "" if it covers several prompts. values (N,): one per picture. floor, ceiling: the values to compare their mean with.
    without_word: computes the same metric (M,) for pictures drawn without the word, from their features (M, D).
    """

    prompt: str
    values: Floats
    floor: float
    ceiling: float
    without_word: Callable[[Floats], Floats] = no_floor


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a concept: the mean over its prompts of one field of its scores.

    name: the column in report/concepts.parquet. of: the field of the scores. label: heading in the page's table, "" if it is not
    in the table. percent: shown in percent.
    """

    name: str
    of: Part
    label: str = ""
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    name: in scores/. figure: its name in summaries and on the page, and the column with its value.
    order: the intervals of metrics are resampled in this order; a new metric comes last, so that the intervals of the others stay
    the same. measure: computes it from one concept's pictures, and the CLIP if the judge reads texts; yields nothing where the
    metric does not apply. answered: by a vision-language judge alone, which has none of the others; measure then takes this judge,
    and there are no features. expected: whether every concept must have it, given the protocol and whether the judge reads texts; a
    word without an expected metric counts as unscored.
    columns: its figures of a concept. medians: those summarised by the median over concepts instead of the mean.
    headline: the columns that the summary has with an interval, in the order of resampling.
    meaning, floor, ceiling: one sentence each, for the documents. unit: of the value.
    title: of the headline figure on the page, "" for none. floor_label, ceiling_label: their labels there. floor_value: the
    floor, if it is the same for all. of_negative: whether it says something of a negative word; the others are nan there.
    about: the paragraph below the figure, as HTML.
    sorts: orders of the page's gallery, (column, 1 for ascending or -1 for descending, label).
    version: of a metric from outside, its digest: scores of another version are not its scores. None for ours.
    """

    name: str
    figure: str
    order: int
    measure: Callable[[Encoded, Any], Iterable[Measurement]]
    columns: tuple[Column, ...]
    meaning: str
    floor: str
    ceiling: str
    unit: str
    expected: Callable[[Protocol, bool], bool] = always
    interval: Callable[[Floats, np.random.Generator], tuple[float, float]] = interval
    headline: tuple[str, ...] = ()
    medians: tuple[str, ...] = ()
    title: str = ""
    floor_label: str = "floor"
    ceiling_label: str = "ceiling"
    floor_value: float | None = None
    of_negative: bool = False
    answered: bool = False
    about: str = ""
    sorts: tuple[tuple[str, int, str], ...] = ()
    version: str | None = None
