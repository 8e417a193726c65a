"""The reconstruction/editability plane (Gal et al. 2022, figure 10): ways of learning a word, each with its error bars.

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
from eval.scores.metrics import Floats, interval
from eval.scores.score_tables import with_nan, without_nan

POINTS = pa.schema([
    ("variant", pa.string()), ("concept", pa.string()), ("reconstruction", pa.float64()), ("editability", pa.float64()),
    ("evaluations", pa.int64()), ("seconds", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """One concept learned in one way. evaluations: pictures that went through the U-Net in training."""

    variant: str
    concept: str
    reconstruction: float
    editability: float
    evaluations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over concepts with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A way of learning over all concepts. against: the mean differences to the base, concept by concept."""

    variant: str
    concepts: int
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


def marks_of(points: Sequence[Point], base: str, rng: np.random.Generator) -> list[Mark]:
    """One a variant, in the order of their first points. rng: resamples the concepts."""
    variants: dict[str, dict[str, Point]] = {}
    for point in points:
        if not math.isnan(point.reconstruction + point.editability):
            variants.setdefault(point.variant, {})[point.concept] = point
    bases = variants.get(base, {})
    return [_mark(variant, some, bases, rng) for variant, some in variants.items()]


def _mark(variant: str, some: Mapping[str, Point], bases: Mapping[str, Point], rng: np.random.Generator) -> Mark:
    def mean(values: list[float]) -> Mean:
        array: Floats = np.array(values)
        return Mean(float(array.mean()) if values else math.nan, *interval(array, rng))

    both = [(some[name], bases[name]) for name in sorted(some.keys() & bases.keys())]
    points = [some[name] for name in sorted(some)]
    return Mark(
        variant,
        len(points),
        mean([each.reconstruction for each in points]),
        mean([each.editability for each in points]),
        mean([one.reconstruction - other.reconstruction for one, other in both]),
        mean([one.editability - other.editability for one, other in both]),
        float(np.mean([each.evaluations for each in points])),
        float(np.mean([each.seconds for each in points])),
    )


def table_of(marks: Sequence[Mark], base: str) -> Table:
    """The variants in their order."""
    head = (
        "", "concepts", "reconstruction", "editability", f"reconstruction less {base}", f"editability less {base}",
        "U-Net evaluations",
    )  # fmt: skip
    rows = [
        (
            mark.variant,
            str(mark.concepts),
            *(_said(each) for each in (mark.reconstruction, mark.editability)),
            *(_said(each, "+") for each in (mark.reconstruction_against, mark.editability_against)),
            f"{mark.evaluations:,.0f}",
        )
        for mark in marks
    ]
    return Table(head, tuple(rows))


def _said(mean: Mean, sign: str = "") -> str:
    return f"{mean.value:{sign}.3f} ({mean.low:{sign}.3f} to {mean.high:{sign}.3f})"


def plane_svg(marks: Sequence[Mark], base: str, ceiling: float) -> str:
    """Up: closer to the training pictures, whose own similarity is the dashed line. Right: closer to the prompt."""
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
