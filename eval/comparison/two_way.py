"""The interval of a mean over training seeds and concepts, both of which are random samples."""

import math
from typing import Any

import numpy as np

from eval.scores.metrics import Floats, student


def two_way_interval(values: Floats) -> tuple[float, float]:
    """The 95 % interval of the mean of values (S, C), one a training seed and concept.

    The variances of the concepts' means and of the seeds' means are added, so that the interval accounts for both choices. Degrees
    of freedom are Satterthwaite's (1946): few seeds that differ much give few. With one seed, only the spread over concepts is
    known. nan below two concepts. The coverage, simulated by `python -m jobs.bench.interval_coverage`, is in docs/measured.md.
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
    """Indices of seeds and of concepts, both drawn with replacement (Owen 2007, "The pigeonhole bootstrap"), for statistics other
    than means. The first draw is the original data.
    """
    drawn = [(rng.integers(seeds, size=seeds), rng.integers(concepts, size=concepts)) for _ in range(draws)]
    return [(np.arange(seeds), np.arange(concepts)), *drawn]
