"""Quality against cost: a word's scores over U-Net evaluations, and the evaluations needed for 95 % of the gain from training."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pyarrow as pa

from eval.comparison.axes import HEIGHT, MARGIN, WIDTH, Frame, svg
from eval.comparison.comparison_page import Table
from eval.comparison.two_way import resampled, two_way_interval
from eval.scores.metrics import Floats

RESAMPLES = 1000
CONVERGED = 0.95
COLOURS = ("#c0392b", "#1f3b63", "#2e8b57", "#8e44ad", "#d68910", "#16a085", "#7f8c8d")
MEASURED = pa.schema([
    ("recipe", pa.string()), ("concept", pa.string()), ("seed", pa.int64()), ("step", pa.int64()),
    ("evaluations", pa.int64()), ("reconstruction", pa.float64()), ("editability", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """One word at a checkpoint. evaluations: pictures passed through the U-Net so far, validation included."""

    recipe: str
    concept: str
    step: int
    evaluations: int
    reconstruction: float
    editability: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Course:
    """A recipe over its checkpoints: S training seeds by C concepts by T checkpoints.

    evaluations: (T,), a mean over concepts if they differ. reconstruction, editability: (S, C, T). A recipe with an early stop has
    a single checkpoint, the last of each word.
    """

    recipe: str
    evaluations: Floats
    reconstruction: Floats
    editability: Floats


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost at which a recipe reaches 95 % of the gain in image similarity from the reference's whole training.

    The goal is the score of the reference's untrained word (its first checkpoint) plus 95 % of the gain to its last one; without
    the difference, most of a raw similarity is there before training. evaluations, low, high: U-Net evaluations per concept with
    their 95 % interval over seeds and concepts; nan and infinite if the goal is not reached. ratio: to the reference's evaluations.
    reached: the share of resamples that reach the goal. text: text similarity at the goal minus the reference's at its end.
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
    """One course per recipe, over the concepts that every recipe has at all of its checkpoints and seeds, none of them diverged."""
    diverged = {row.concept for row in rows if np.isnan(row.reconstruction)}
    rows = [row for row in rows if row.concept not in diverged]
    by_recipe: dict[str, dict[int, dict[tuple[int, str], Measured]]] = {}
    for row in rows:
        by_recipe.setdefault(row.recipe, {}).setdefault(row.step, {})[row.seed, row.concept] = row
    everywhere = [set(some) for steps in by_recipe.values() for some in steps.values()]
    both = set.intersection(*everywhere) if everywhere else set()
    seeds = sorted({seed for seed, _ in both})
    names = sorted(name for name in {name for _, name in both} if all((seed, name) in both for seed in seeds))
    return [
        Course(
            recipe,
            np.array(
                [np.mean([steps[k][s, name].evaluations for s in seeds for name in names]) for k in sorted(steps)]
            ),
            np.array([[[steps[k][s, name].reconstruction for k in sorted(steps)] for name in names] for s in seeds]),
            np.array([[[steps[k][s, name].editability for k in sorted(steps)] for name in names] for s in seeds]),
        )
        for recipe, steps in by_recipe.items()
    ]


def costs_of(
    courses: Sequence[Course], reference: str, rng: np.random.Generator, resamples: int = RESAMPLES
) -> list[Cost]:
    """rng: resamples seeds and concepts, the same for all recipes, because recipes are compared concept by concept."""
    base = next(course for course in courses if course.recipe == reference)
    seeds, concepts = base.reconstruction.shape[:2]
    draws = resampled(seeds, concepts, resamples, rng)
    steps = {course.recipe: np.array([_reach(course, base, *some) for some in draws]) for course in courses}
    return [_cost(recipe, reached, steps[reference][:, 0]) for recipe, reached in steps.items()]


def _reach(course: Course, base: Course, seeds: Floats, concepts: Floats) -> tuple[float, float]:
    """(evaluations to the goal, text similarity there minus the reference's last).

    (inf, nan) if the goal is not reached; (nan, nan) if the reference gained nothing.
    """

    def mean(values: Floats) -> Floats:
        means: Floats = values[np.ix_(seeds, concepts)].mean(axis=(0, 1))
        return means

    untrained, *_, converged = mean(base.reconstruction)
    if converged <= untrained:
        return np.nan, np.nan
    goal, quality = untrained + CONVERGED * (converged - untrained), mean(course.reconstruction)
    there = np.flatnonzero(quality >= goal)
    if not len(there):
        return np.inf, np.nan
    place = int(there[0])
    share = 1.0 if place == 0 else float((goal - quality[place - 1]) / (quality[place] - quality[place - 1]))
    before = max(place - 1, 0)

    def between(values: Floats) -> float:
        return float(values[before] + share * (values[place] - values[before]))

    return between(course.evaluations), between(mean(course.editability)) - float(mean(base.editability)[-1])


def _cost(recipe: str, reached: Floats, own: Floats) -> Cost:
    (evaluations, text), spread = reached[0], reached[1:]

    def bounds(values: Floats) -> tuple[float, float]:
        known = values[~np.isnan(values)]
        # Some resamples may not reach the goal; a quantile between a number and infinity cannot be interpolated.
        ends = np.quantile(known, (0.025, 0.975), method="closest_observation") if len(known) else (np.nan, np.nan)
        return float(ends[0]), float(ends[1])

    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = reached[:, 0] / own
    known = spread[~np.isnan(spread[:, 0]), 0]
    return Cost(
        recipe, float(evaluations) if np.isfinite(evaluations) else np.nan, *bounds(spread[:, 0]),
        float(ratios[0]), *bounds(ratios[1:]), float(np.mean(np.isfinite(known))) if len(known) else np.nan,
        float(text), *bounds(spread[:, 1]),
    )  # fmt: skip


def costs_table(costs: Sequence[Cost], reference: str) -> Table:
    head = (
        "recipe", "U-Net evaluations to 95 % of the gain", f"share of {reference}'s", "resamples there",
        f"text similarity less {reference}'s",
    )  # fmt: skip
    return Table(head, tuple(_cost_row(each) for each in costs))


def _cost_row(cost: Cost) -> tuple[str, ...]:
    if np.isnan(cost.reached):
        return cost.recipe, "the reference gained nothing", "–", "–", "–"
    if np.isnan(cost.evaluations):
        return cost.recipe, "not within its budget", "–", f"{cost.reached:.0%}", "–"
    return (
        cost.recipe,
        f"{cost.evaluations:,.0f} ({_bound(cost.low, ',.0f')} to {_bound(cost.high, ',.0f')})",
        f"{cost.ratio:.2f} ({_bound(cost.ratio_low, '.2f')} to {_bound(cost.ratio_high, '.2f')})",
        f"{cost.reached:.0%}",
        f"{cost.text:+.3f} ({cost.text_low:+.3f} to {cost.text_high:+.3f})",
    )


def _bound(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "beyond its budget"


def courses_table(courses: Sequence[Course]) -> Table:
    """Every checkpoint with its intervals over seeds and concepts."""
    rows = []
    for course in courses:
        for place, evaluations in enumerate(course.evaluations):
            cells = []
            for values in (course.reconstruction[:, :, place], course.editability[:, :, place]):
                low, high = two_way_interval(values)
                cells.append(f"{values.mean():.3f} ({low:.3f} to {high:.3f})")
            rows.append((course.recipe, f"{evaluations:,.0f}", *cells))
    return Table(("recipe", "U-Net evaluations", "image similarity", "text similarity"), tuple(rows))


def courses_svg(courses: Sequence[Course]) -> str:
    """Image similarity over U-Net evaluations, each recipe with its 95 % band over seeds and concepts."""
    right = max(float(course.evaluations[-1]) for course in courses) or 1.0
    bands = [
        np.array([two_way_interval(course.reconstruction[:, :, k]) for k in range(len(course.evaluations))]).T
        for course in courses
    ]
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
        middle = [at(course.evaluations[k], course.reconstruction[:, :, k].mean()) for k in places]
        drawn_ += [f'<circle fill="{colour}" r="4" cx="{x}" cy="{y}"/>' for x, y in (spot.split() for spot in middle)]
        drawn_.append(f'<path fill="{colour}" fill-opacity="0.13" d="M{"L".join(edge)}Z"/>')
        drawn_.append(f'<path fill="none" stroke="{colour}" stroke-width="2" d="M{"L".join(middle)}"/>')
        drawn_.append(
            f'<text fill="{colour}" x="{WIDTH - 250}" y="{HEIGHT - MARGIN - 90 + 20 * number}">{escape(course.recipe)}</text>'
        )
    return svg(drawn_)
