"""The reconstruction-editability plane (Gal et al. 2022, figure 10): each way of learning a word, with its error bars.

points of concepts -> marks with intervals -> an SVG, a table; comparison_page.py shows both
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
import pyarrow as pa

from eval.comparison.axes import DOT, MARGIN, WIDTH, Frame, labels, svg
from eval.comparison.comparison_page import Table
from eval.comparison.two_way import two_way_interval
from eval.scores.score_tables import with_nan, without_nan

POINTS = pa.schema([
    ("variant", pa.string()), ("concept", pa.string()), ("reconstruction", pa.float64()), ("editability", pa.float64()),
    ("evaluations", pa.int64()), ("seconds", pa.float64()), ("seed", pa.int64()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """One concept learned in one way. evaluations: pictures passed through the U-Net in training. seed: of the training."""

    variant: str
    concept: str
    reconstruction: float
    editability: float
    evaluations: int = 0
    seconds: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over training seeds and concepts with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A way of learning over all concepts. against: the mean of the differences to the base for each concept.

    concepts, seeds: how many it was measured on; without training, there is one seed.
    """

    variant: str
    concepts: int
    seeds: int
    reconstruction: Mean
    editability: Mean
    reconstruction_against: Mean
    editability_against: Mean
    evaluations: float
    seconds: float


def point_rows(points: Sequence[Point]) -> pa.Table:
    return pa.Table.from_pylist([without_nan(asdict(point)) for point in points], POINTS)


def points_of(table: pa.Table) -> list[Point]:
    return [Point(**with_nan(row)) for row in table.to_pylist()]


def marks_of(points: Sequence[Point], base: str) -> list[Mark]:
    """One mark per variant, in the order of their first points, over the concepts that it has at all of its training seeds."""
    variants: dict[str, dict[tuple[int, str], Point]] = {}
    for point in points:
        if not math.isnan(point.reconstruction + point.editability):
            variants.setdefault(point.variant, {})[point.seed, point.concept] = point
    return [_mark(variant, some, variants.get(base, {})) for variant, some in variants.items()]


def _mark(variant: str, some: Mapping[tuple[int, str], Point], bases: Mapping[tuple[int, str], Point]) -> Mark:
    own, both = _by_seed(some), _by_seed(some, bases)
    points = [point for row in own for (point,) in row]
    return Mark(
        variant,
        len(own[0]) if own else 0,
        len(own),
        _mean([[each.reconstruction for (each,) in row] for row in own]),
        _mean([[each.editability for (each,) in row] for row in own]),
        _mean([[one.reconstruction - other.reconstruction for one, other in row] for row in both]),
        _mean([[one.editability - other.editability for one, other in row] for row in both]),
        float(np.mean([each.evaluations for each in points])) if points else math.nan,
        float(np.mean([each.seconds for each in points])) if points else math.nan,
    )


def _by_seed(*of: Mapping[tuple[int, str], Point]) -> list[list[tuple[Point, ...]]]:
    """A row per seed and a column per concept; points without training are the same at all seeds."""
    seeds = sorted({seed for some in of for seed, _ in some})
    names = sorted(set.intersection(*({name for _, name in some} for some in of)))

    def at(some: Mapping[tuple[int, str], Point], seed: int, name: str) -> Point | None:
        untrained = {known for known, _ in some} == {0}
        return some.get((0 if untrained else seed, name))

    whole = [name for name in names if all(at(some, seed, name) for some in of for seed in seeds)]
    return [[tuple(point for some in of if (point := at(some, seed, name))) for name in whole] for seed in seeds]


def _mean(values: Sequence[Sequence[float]]) -> Mean:
    array = np.array(values, np.float64)
    return Mean(float(array.mean()), *two_way_interval(array)) if array.size else Mean(math.nan, math.nan, math.nan)


def table_of(marks: Sequence[Mark], base: str, of: str = "") -> Table:
    """The variants in their order. of: the kind of concepts that they were measured on, above their names."""
    head = (
        of, "concepts", "seeds", "reconstruction", "editability", f"reconstruction less {base}", f"editability less {base}",
        "U-Net evaluations",
    )  # fmt: skip
    rows = [
        (
            mark.variant,
            str(mark.concepts),
            str(mark.seeds),
            *(_said(each) for each in (mark.reconstruction, mark.editability)),
            *(_said(each, "+") for each in (mark.reconstruction_against, mark.editability_against)),
            f"{mark.evaluations:,.0f}",
        )
        for mark in marks
    ]
    return Table(head, tuple(rows))


def tables_by_kind(points: Sequence[Point], kinds: Mapping[str, str], base: str) -> list[Table]:
    """The same for each kind of concepts. kinds: concept -> its kind; no tables if all are of one."""
    names = list(dict.fromkeys(kinds.values()))
    return [
        table_of(marks_of([each for each in points if kinds.get(each.concept) == kind], base), base, kind)
        for kind in (names if len(names) > 1 else ())
    ]


def _said(mean: Mean, sign: str = "") -> str:
    if math.isnan(mean.low):  # of a single concept
        return f"{mean.value:{sign}.3f}"
    return f"{mean.value:{sign}.3f} ({mean.low:{sign}.3f} to {mean.high:{sign}.3f})"


def plane_svg(marks: Sequence[Mark], base: str, ceiling: float) -> str:
    """Up is closer to the training pictures (dashed line: their similarity to each other), right is closer to the prompt."""
    edges = [mark.editability for mark in marks], [mark.reconstruction for mark in marks]
    (left, right), (bottom, top) = (_span(some) for some in edges)
    if not math.isnan(ceiling):
        top = max(top, ceiling + 0.02 * (top - bottom))

    frame = Frame((left, right), (bottom, top))
    x, y = frame.x, frame.y
    drawn = frame.axes("editability (text similarity)", "reconstruction (image similarity)")
    if not math.isnan(ceiling):
        drawn.append(
            f'<path class="frontier" d="M{MARGIN} {y(ceiling)}H{WIDTH - MARGIN}"/>'
            f'<text class="tick" x="{MARGIN + 6}" y="{y(ceiling) - 5}">training pictures among themselves</text>'
        )
    places = [(x(mark.editability.value), y(mark.reconstruction.value)) for mark in marks]
    for mark, (across, up) in zip(marks, places, strict=True):
        drawn.append(
            f'<path class="bar" d="M{x(mark.editability.low)} {up}H{x(mark.editability.high)}'
            f'M{across} {y(mark.reconstruction.low)}V{y(mark.reconstruction.high)}"/>'
        )
    for mark, (across, up) in zip(marks, places, strict=True):
        kind = "base" if mark.variant == base else "mark"
        drawn.append(
            f'<circle class="{kind}" cx="{across}" cy="{up}" r="{DOT:g}"><title>{escape(mark.variant)}</title></circle>'
        )
    drawn += labels(places, [mark.variant for mark in marks])
    return svg(drawn)


def _span(means: Sequence[Mean]) -> tuple[float, float]:
    ends = [end for mean in means for end in (mean.value, mean.low, mean.high) if not math.isnan(end)] or [0.0, 1.0]
    room = 0.12 * (max(ends) - min(ends)) or 0.05
    return min(ends) - room, max(ends) + room
