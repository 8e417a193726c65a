"""One metric over the nights, as coordinates that the page's template draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.nightly.gate import AFFECTED
from eval.nightly.history import Verdict

WIDTH, HEIGHT = 600.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 10.0, 24.0


@dataclass(frozen=True, slots=True)
class Mark:
    """One night. x, y, low, high: where its mean and its interval are drawn."""

    x: float
    y: float
    low: float
    high: float
    night: str
    value: float
    good: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A metric over the nights that have it.

    path: "x,y x,y ..." for a polyline. limit: y of the mean below which tonight's gate can alarm; None without a gate.
    ticks: (y, label). first, last: names of the outermost nights.
    """

    metric: str
    marks: tuple[Mark, ...]
    path: str
    limit: float | None
    ticks: tuple[tuple[float, str], ...]
    first: str
    last: str


def line_over_nights(nights: Sequence[Verdict], metric: str) -> Line | None:
    """None where fewer than two nights have the metric.

    The limit is the mean of the night that tonight was compared with, less the gate's drop in a fifth of the concepts. An
    alarm also needs the loss to be statistically significant.
    """
    known = [night for night in nights if not math.isnan(night.estimates[metric].value)]
    if len(known) < 2:
        return None
    estimates = [night.estimates[metric] for night in known]
    lows = [each.value if math.isnan(each.low) else each.low for each in estimates]
    highs = [each.value if math.isnan(each.high) else each.high for each in estimates]
    tonight, limit = known[-1], None
    base = next((night for night in known if night.night == tonight.against), None)
    if base is not None and tonight.drop is not None:
        limit = base.estimates[metric].value - AFFECTED * tonight.drop
    bottom, top = min(lows + ([] if limit is None else [limit])), max(highs)
    margin = 0.1 * (top - bottom) or 0.01
    bottom, top = bottom - margin, top + margin

    def y(value: float) -> float:
        return round(TOP + (top - value) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    marks = tuple(
        Mark(round(LEFT + (WIDTH - LEFT - RIGHT) * place / (len(known) - 1), 1), y(estimate.value), y(low), y(high),
             night.night, estimate.value, night.good)
        for place, (night, estimate, low, high) in enumerate(zip(known, estimates, lows, highs, strict=True))
    )  # fmt: skip
    return Line(
        metric, marks, " ".join(f"{mark.x},{mark.y}" for mark in marks), None if limit is None else y(limit),
        tuple((y(value), f"{value:.3f}") for value in (bottom + margin, top - margin)), known[0].night, known[-1].night,
    )  # fmt: skip
