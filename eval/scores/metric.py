"""What a metric is: one record says how it is computed, what it is read against, and where it is shown."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.judges.clip import ClipScorer
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

    prompt: "" for one over several prompts. values (N,): one a picture. floor, ceiling: what they are read against.
    without_word: features (M, D) of pictures drawn without the word -> the same metric of them (M,).
    """

    prompt: str
    values: Floats
    floor: float
    ceiling: float
    without_word: Callable[[Floats], Floats] = no_floor


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a concept: the mean, over its prompts, of a part of its scores.

    name: the column of report/concepts.parquet. label: of the column in the page's table, "" for none.
    percent: how the page shows it.
    """

    name: str
    of: Part
    label: str = ""
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    name: in scores/. figure: what it is called in summaries and on the page, and the name of the column with its value.
    order: metrics draw their intervals one after the other; a new one comes last, so that it moves none of the others.
    measure: of one concept's pictures, and the CLIP that reads texts if there is one; nothing where it does not apply.
    expected: whether every concept has it under a protocol and a judge that reads texts or not. A word without a metric
    that is expected counts as unscored.
    columns: of a concept. medians: those that are summarised by the median over concepts instead of the mean.
    headline: the columns that the summary has with an interval, in the order in which these are drawn.
    meaning, floor, ceiling: one sentence each, for the documents. unit: of the value.
    title: on the page, "" for one that has no place among its headline figures. floor_label, ceiling_label: what they are
    called there; floor_value: of a floor that is the same for all. about: the paragraph below, as HTML.
    sorts: orders of the page's gallery, (column, 1 for the lowest first or -1, label).
    """

    name: str
    figure: str
    order: int
    measure: Callable[[Encoded, ClipScorer | None], Iterable[Measurement]]
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
    about: str = ""
    sorts: tuple[tuple[str, int, str], ...] = ()
