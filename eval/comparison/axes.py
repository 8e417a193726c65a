"""SVG parts that the plots of a comparison share: axes with round ticks, and labels that do not overlap."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, MARGIN = 760.0, 520.0, 64.0
TICKS = 6  # at most, on an axis
DOT = 5.0  # pixels: the radius of a place
LETTER, LINE = 7.5, 15.0  # pixels: the width of a letter and the height of a line, both on the large side


def ticks(low: float, high: float) -> list[str]:
    """At most six evenly spaced round numbers in [low, high], with just enough digits to differ.

    >>> ticks(0.662, 0.683), ticks(0, 872)
    (['0.665', '0.670', '0.675', '0.680'], ['0', '200', '400', '600', '800'])
    """
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) < TICKS)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [f"{number * step:.{digits}f}" for number in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Frame:
    """The ranges of the two axes, and the pixel position of a value on them."""

    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.across
        return round(MARGIN + (value - low) / (high - low) * (WIDTH - 2 * MARGIN), 1)

    def y(self, value: float) -> float:
        low, high = self.up
        return round(HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2 * MARGIN), 1)

    def axes(self, below: str, above: str) -> list[str]:
        """The axes with their numbers. below, above: names of the horizontal and the vertical axis."""
        floor = HEIGHT - MARGIN
        drawn = [f'<path class="axis" fill="none" d="M{MARGIN} {MARGIN}V{floor}H{WIDTH - MARGIN}"/>']
        for said in ticks(*self.across):
            x = self.x(float(said))
            drawn.append(f'<text class="tick" x="{x}" y="{floor + 18}" text-anchor="middle">{said}</text>')
        for said in ticks(*self.up):
            y = self.y(float(said))
            drawn.append(f'<text class="tick" x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{said}</text>')
        drawn.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 18}" text-anchor="middle">{escape(below)}</text>')
        drawn.append(f'<text x="{MARGIN - 40}" y="{MARGIN - 22}">{escape(above)}</text>')
        return drawn


def labels(places: Sequence[tuple[float, float]], names: Sequence[str]) -> list[str]:
    """A label for each point, as near to it as dots and earlier labels allow; a line connects a label that had to move away."""
    taken = [(x - DOT, y + DOT, 2 * DOT) for x, y in places]
    drawn = []
    for (x, y), name in zip(places, names, strict=True):
        width = LETTER * len(name)
        # If there is no free place, overlapping a label is better than no label; so is crossing the edge.
        spots = [*_spots(x, y, width)] or [(x + 8, y - 7)]
        free = (spot for spot in spots if not any(_meet((*spot, width), other) for other in taken))
        left, base = spot = next(free, spots[0])
        taken.append((left, base, width))
        line = f'<path class="axis" d="M{x} {y}L{left if left > x else left + width:.1f} {base - 4:.1f}"/>'
        text = f'<text class="label" x="{left:.1f}" y="{base:.1f}">{escape(name)}</text>'
        drawn.append(text if spot == spots[0] else line + text)
    return drawn


def svg(drawn: Sequence[str]) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}">{"".join(drawn)}</svg>'


def _spots(x: float, y: float, width: float) -> Iterator[tuple[float, float]]:
    """Candidate left ends of the label's base line within the drawing, the nearest first."""
    for line in range(12):
        for base in (y - 7 - line * LINE, y + 17 + line * LINE):
            for left in (x + 8, x - 8 - width):
                if left >= MARGIN and left + width <= WIDTH and MARGIN <= base <= HEIGHT - MARGIN:
                    yield left, base


def _meet(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    (left, base, width), (left_, base_, width_) = one, other
    return abs(base - base_) < LINE and left < left_ + width_ and left_ < left + width
