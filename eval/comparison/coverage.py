"""The coverage of this package's intervals, by simulation: how often they contain the true value."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from eval.comparison.curve import Course, costs_of
from eval.comparison.two_way import two_way_interval
from eval.scores.metrics import Floats, diversity, diversity_interval, interval

Statistic = Literal["mean", "median", "diversity"]
# Scores as they are about a true value of 0: even, leaning to one side (skewness 1), and with outliers.
SHAPES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, count: rng.normal(size=count),
    "skewed": lambda rng, count: rng.gamma(4, size=count),
    "outliers": lambda rng, count: rng.standard_t(4, size=count),
}
TRUTH = {"normal": (0.0, 0.0), "skewed": (4.0, 3.67206), "outliers": (0.0, 0.0)}  # mean, median
WIDTH = 8  # numbers a feature has
CHECKPOINTS = np.array([0.0, 48, 100, 200, 400, 800])  # U-Net evaluations


def coverage(statistic: Statistic, shape: str, count: int, repeats: int, seed: int = 0) -> float:
    """The share of `repeats` in which the interval of `count` values contained the true mean, median or diversity."""
    rng, held = np.random.default_rng(seed), 0
    if statistic == "diversity":
        truth = float(diversity(_features(rng, 3000)).mean())
        for _ in range(repeats):
            low, high = diversity_interval(diversity(_features(rng, count)), rng)
            held += low <= truth <= high
        return held / repeats
    truth = TRUTH[shape][statistic == "median"]
    for _ in range(repeats):
        low, high = interval(SHAPES[shape](rng, count), rng, np.median if statistic == "median" else np.mean)
        held += low <= truth <= high
    return held / repeats


def two_way_coverage(seeds: int, concepts: int, shared: float, repeats: int, seed: int = 0) -> float:
    """Coverage of `two_way_interval`. shared: the standard deviation of a seed's effect on all concepts; that between concepts
    is 1, that of each training 0.5.
    """
    rng, held = np.random.default_rng(seed), 0
    for _ in range(repeats):
        values = rng.normal(size=(1, concepts)) + 0.5 * rng.normal(size=(seeds, concepts))
        low, high = two_way_interval(values + shared * rng.normal(size=(seeds, 1)))
        held += low <= 0 <= high
    return held / repeats


def cost_coverage(seeds: int, concepts: int, repeats: int, resamples: int = 300, seed: int = 0) -> float:
    """Coverage of `costs_of`'s interval for the evaluations to 95 % of the gain, for a recipe and its reference.

    Concepts differ in starting point, gain and speed (each about twofold); a score has the noise measured on the shipped model,
    0.012.
    """
    rng, held = np.random.default_rng(seed), 0
    (truth,) = (
        each.evaluations for each in costs_of(_courses(rng, 1, 20_000), "slow", rng, 1) if each.recipe == "fast"
    )
    for _ in range(repeats):
        (cost,) = (
            each for each in costs_of(_courses(rng, seeds, concepts), "slow", rng, resamples) if each.recipe == "fast"
        )
        held += cost.low <= truth <= cost.high
    return held / repeats


def _courses(rng: np.random.Generator, seeds: int, concepts: int) -> list[Course]:
    begins, gains = rng.normal(0.6, 0.1, (concepts, 1)), 0.1 * np.exp(rng.normal(0, 0.35, (concepts, 1)))
    speeds = np.exp(rng.normal(0, 0.35, (concepts, 1)))
    courses = []
    for name, pictures in (("slow", 100.0), ("fast", 40.0)):
        quality = begins + gains * (1 - np.exp(-CHECKPOINTS / (pictures * speeds)))
        noisy = quality + rng.normal(0, 0.012, (seeds, concepts, len(CHECKPOINTS)))
        courses.append(Course(name, CHECKPOINTS, noisy, np.full_like(noisy, 0.3)))
    return courses


def _features(rng: np.random.Generator, count: int) -> Floats:
    rows = np.r_[3.0, np.zeros(WIDTH - 1)] + rng.normal(size=(count, WIDTH))
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
