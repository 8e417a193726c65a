"""The interval of a mean over training seeds and concepts: both were drawn by chance, and another draw would give another mean."""

import math
from typing import Any

import numpy as np

from eval.scores.metrics import Floats, student


def two_way_interval(values: Floats) -> tuple[float, float]:
    """The 95 % interval of the mean of values (S, C), one a training seed and concept.

    The variances of the concepts' means and of the seeds' means are added, so that neither a lucky seed nor a lucky choice of
    concepts is taken for more than it is. Degrees of freedom are Satterthwaite's (1946): of few seeds that differ much they
    are few. With one seed, what is known is the spread over concepts alone. nan below two concepts. How often it covers is in
    docs/measured.md, as `python -m jobs.bench.interval_coverage` simulates it.
    """
    parts = [
        (float(means.var(ddof=1)) / len(means), len(means) - 1)
        for means in (values.mean(axis=0), values.mean(axis=1))
        if len(means) > 1
    ]
    if values.shape[1] < 2:
        return math.nan, math.nan
    middle, variance = float(values.mean()), sum(part for part, _ in parts)
    if not variance:
        return middle, middle
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    half = student(round(freedom, 1)) * math.sqrt(variance)
    return middle - half, middle + half


def resampled(seeds: int, concepts: int, draws: int, rng: np.random.Generator) -> list[tuple[Any, Any]]:
    """Indices of seeds and of concepts, both drawn with replacement (Owen 2007, "The pigeonhole bootstrap"), for statistics that
    are no means; the first draw is everything as it is.
    """
    drawn = [(rng.integers(seeds, size=seeds), rng.integers(concepts, size=concepts)) for _ in range(draws)]
    return [(np.arange(seeds), np.arange(concepts)), *drawn]
