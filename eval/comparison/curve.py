"""Quality against cost: a word's scores after so many U-Net evaluations, and what 95 % of the converged quality costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pyarrow as pa

from eval.comparison.axes import HEIGHT, MARGIN, WIDTH, Frame, svg
from eval.comparison.comparison_page import Table
from eval.scores.metrics import Floats

RESAMPLES = 1000
CONVERGED = 0.95
COLOURS = ("#c0392b", "#1f3b63", "#2e8b57", "#8e44ad", "#d68910")
MEASURED = pa.schema([
    ("recipe", pa.string()), ("concept", pa.string()), ("step", pa.int64()), ("evaluations", pa.int64()),
    ("reconstruction", pa.float64()), ("editability", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """One word in mid-training. evaluations: pictures that went through the U-Net until then, validation included."""

    recipe: str
    concept: str
    step: int
    evaluations: int
    reconstruction: float
    editability: float


@dataclass(frozen=True, slots=True)
class Course:
    """A recipe over its checkpoints, C concepts by T of them.

    evaluations: (T,), a mean over concepts where they differ. reconstruction, editability: (C, T). One with an early stop
    has a single checkpoint, where each word came to its end.
    """

    recipe: str
    evaluations: Floats
    reconstruction: Floats
    editability: Floats


@dataclass(frozen=True, slots=True)
class Cost:
    """What a recipe takes to reach 95 % of the reference's last image similarity; nan where it never does.

    evaluations, low, high: a concept's U-Net evaluations with their 95 % interval. ratio: to the reference's own.
    reached: the share of resamples in which it got there. text: its text similarity there less the reference's at its end.
    """

    recipe: str
    evaluations: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    reached: float
    text: float
    text_low: float
    text_high: float


def courses_of(rows: Sequence[Measured]) -> list[Course]:
    """One a recipe, over the concepts that every recipe has at every checkpoint of its own, none of them diverged."""
    diverged = {row.concept for row in rows if np.isnan(row.reconstruction)}
    rows = [row for row in rows if row.concept not in diverged]
    by_recipe: dict[str, dict[int, dict[str, Measured]]] = {}
    for row in rows:
        by_recipe.setdefault(row.recipe, {}).setdefault(row.step, {})[row.concept] = row
    everywhere = [set(some) for steps in by_recipe.values() for some in steps.values()]
    names = sorted(set.intersection(*everywhere)) if everywhere else []
    return [
        Course(
            recipe,
            np.array([np.mean([steps[step][name].evaluations for name in names]) for step in sorted(steps)]),
            np.array([[steps[step][name].reconstruction for step in sorted(steps)] for name in names]),
            np.array([[steps[step][name].editability for step in sorted(steps)] for name in names]),
        )
        for recipe, steps in by_recipe.items()
    ]


def costs_of(courses: Sequence[Course], reference: str, rng: np.random.Generator) -> list[Cost]:
    """rng: resamples the concepts, the same ones for all recipes: they are compared concept by concept."""
    base = next(course for course in courses if course.recipe == reference)
    count = len(base.reconstruction)
    concepts = np.arange(count)
    draws = [concepts, *rng.integers(count, size=(RESAMPLES, count))]
    found: Mapping[str, list[tuple[float, float]]] = {
        course.recipe: [_reach(course, base, some) for some in draws] for course in courses
    }
    own = np.array([evaluations for evaluations, _ in found[reference]])
    return [_cost(recipe, np.array(reached), own) for recipe, reached in found.items()]


def _reach(course: Course, base: Course, concepts: Floats) -> tuple[float, float]:
    """(evaluations to 95 %, text similarity there less the reference's last); nan where it is not reached."""
    goal = CONVERGED * float(base.reconstruction[concepts, -1].mean())
    quality = course.reconstruction[concepts].mean(axis=0)
    there = np.flatnonzero(quality >= goal)
    if not len(there):
        return np.nan, np.nan
    place = int(there[0])
    share = 1.0 if place == 0 else float((goal - quality[place - 1]) / (quality[place] - quality[place - 1]))
    before = max(place - 1, 0)

    def between(values: Floats) -> float:
        return float(values[before] + share * (values[place] - values[before]))

    text = between(course.editability[concepts].mean(axis=0)) - float(base.editability[concepts, -1].mean())
    return between(course.evaluations), text


def _cost(recipe: str, reached: Floats, own: Floats) -> Cost:
    (evaluations, text), spread = reached[0], reached[1:]

    def interval(values: Floats) -> tuple[float, float]:
        known = values[~np.isnan(values)]
        # Between a share and an infinite one (the reference is there untrained, in some resamples) lies nothing.
        ends = np.quantile(known, (0.025, 0.975), method="closest_observation") if len(known) else (np.nan, np.nan)
        return float(ends[0]), float(ends[1])

    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = reached[:, 0] / own
    return Cost(
        recipe, float(evaluations), *interval(spread[:, 0]), float(ratios[0]), *interval(ratios[1:]),
        float(np.mean(~np.isnan(spread[:, 0]))), float(text), *interval(spread[:, 1]),
    )  # fmt: skip


def costs_table(costs: Sequence[Cost], reference: str) -> Table:
    head = (
        "recipe", "U-Net evaluations to 95 %", f"share of {reference}'s", "resamples there",
        f"text similarity less {reference}'s",
    )  # fmt: skip
    return Table(head, tuple(_cost_row(each) for each in costs))


def _cost_row(cost: Cost) -> tuple[str, ...]:
    if np.isnan(cost.evaluations):
        return cost.recipe, "not within its budget", "–", f"{cost.reached:.0%}", "–"
    return (
        cost.recipe,
        f"{cost.evaluations:,.0f} ({cost.low:,.0f} to {cost.high:,.0f})",
        f"{cost.ratio:.2f} ({cost.ratio_low:.2f} to {cost.ratio_high:.2f})",
        f"{cost.reached:.0%}",
        f"{cost.text:+.3f} ({cost.text_low:+.3f} to {cost.text_high:+.3f})",
    )


def courses_table(courses: Sequence[Course], rng: np.random.Generator) -> Table:
    """Every checkpoint with its intervals over concepts."""
    rows = []
    for course in courses:
        for place, evaluations in enumerate(course.evaluations):
            cells = []
            for values in (course.reconstruction[:, place], course.editability[:, place]):
                means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
                low, high = np.quantile(means, (0.025, 0.975))
                cells.append(f"{values.mean():.3f} ({low:.3f} to {high:.3f})")
            rows.append((course.recipe, f"{evaluations:,.0f}", *cells))
    return Table(("recipe", "U-Net evaluations", "image similarity", "text similarity"), tuple(rows))


def courses_svg(courses: Sequence[Course], rng: np.random.Generator) -> str:
    """Image similarity over U-Net evaluations, each recipe with its 95 % band over concepts."""
    right = max(float(course.evaluations[-1]) for course in courses) or 1.0
    bands = []
    for course in courses:
        drawn = rng.integers(len(course.reconstruction), size=(RESAMPLES, len(course.reconstruction)))
        bands.append(np.quantile(course.reconstruction[drawn].mean(axis=1), (0.025, 0.975), axis=0))
    bottom, top = min(float(band.min()) for band in bands), max(float(band.max()) for band in bands)
    room = 0.06 * (top - bottom) or 0.01
    bottom, top = bottom - room, top + room

    frame = Frame((0.0, right), (bottom, top))

    def at(x: float, y: float) -> str:
        return f"{frame.x(x)} {frame.y(y)}"

    drawn_ = frame.axes("U-Net evaluations a concept (steps × batch)", "image similarity")
    for number, (course, (low, high)) in enumerate(zip(courses, bands, strict=True)):
        colour, places = COLOURS[number % len(COLOURS)], range(len(course.evaluations))
        edge = [at(course.evaluations[k], high[k]) for k in places]
        edge += [at(course.evaluations[k], low[k]) for k in reversed(places)]
        middle = [at(course.evaluations[k], course.reconstruction[:, k].mean()) for k in places]
        drawn_ += [f'<circle fill="{colour}" r="4" cx="{x}" cy="{y}"/>' for x, y in (spot.split() for spot in middle)]
        drawn_.append(f'<path fill="{colour}" fill-opacity="0.13" d="M{"L".join(edge)}Z"/>')
        drawn_.append(f'<path fill="none" stroke="{colour}" stroke-width="2" d="M{"L".join(middle)}"/>')
        drawn_.append(
            f'<text fill="{colour}" x="{WIDTH - 250}" y="{HEIGHT - MARGIN - 90 + 20 * number}">{escape(course.recipe)}</text>'
        )
    return svg(drawn_)
