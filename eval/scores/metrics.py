"""The paper's two similarities, their floors and ceilings, and diversity, as plain array functions.

Every `features` array is float (N, D) with rows of length one, as made by `eval.judges.clip`. A metric returns one value per
sample; the summary takes means over samples, prompts or concepts. All values are raw cosines in [-1, 1], without CLIPScore's
factor of 2.5. A value that cannot be computed is nan.

Sources: Gal et al. 2022 (arXiv 2208.01618), section 5.1; the percentile bootstrap of Efron 1979; for the mean over pairs
Hoeffding 1948 (U-statistics).
"""

import functools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

# Cosines of float32 features have rounding errors of about 1e-7: a distance below this is noise, and a share of it meaningless.
SMALLEST_DISTANCE = 1e-6
# Resampled indices held at once: 16 MB, however many values there are.
DRAWN_AT_ONCE = 2_000_000
NORMAL = NormalDist().inv_cdf(0.975)


def image_similarity(samples: Floats, training: Floats) -> Floats:
    """Reconstruction: each sample's mean cosine against all training images.

    samples (N, D), training (M, D) -> (N,); its mean is the paper's mean over all N x M pairs.
    """
    if not len(training):
        return np.full(len(samples), np.nan)
    return samples.astype(np.float64) @ training.astype(np.float64).mean(axis=0)


def training_ceiling(training: Floats) -> float:
    """The similarity that real images reach: the mean cosine over ordered pairs of different training images (M, D).

    Pairs of an image with itself are left out: their cosine of 1 would raise the ceiling by up to 1/M of the distance to 1. nan for
    a single image.
    """
    count = len(training)
    if count < 2:
        return float("nan")
    cosines = training.astype(np.float64) @ training.astype(np.float64).T
    return float((cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


def diversity(samples: Floats) -> Floats:
    """How far each sample is from the others of its prompt: one minus its mean cosine to them.

    samples (N, D) -> (N,), each in [0, 2]; its mean is one minus the mean cosine over pairs of different samples. It is 0 for a
    word that draws the same picture from any noise, and nan for a single sample.

    It serves the purpose of LPIPS (Zhang et al. 2018) with the features at hand, because LPIPS' weights would be one more download.
    Pooled features react to a different object, view or scene, but little to texture.
    """
    count = len(samples)
    if count < 2:
        return np.full(count, np.nan)
    cosines = samples.astype(np.float64) @ samples.astype(np.float64).T
    return 1 - (cosines.sum(axis=1) - np.diag(cosines)) / (count - 1)


def diversity_interval(values: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean of `diversity`'s values (N,).

    Every pair contributes to two of the values, so the standard error of their mean is twice that of independent values
    (Hoeffding 1948: Var U = 4/N Var h_1). The interval for independent values is stretched by this factor, and by
    (N - 1) / (N - 2) as in the jackknife. nan below three pictures: the values of two are equal.
    """
    count = len(values)
    if count < 3:
        return float("nan"), float("nan")
    middle, wider = float(values.mean()), 2 * (count - 1) / (count - 2)
    low, high = interval(values, rng)
    return max(0.0, middle + wider * (low - middle)), middle + wider * (high - middle)


def text_similarity(samples: Floats, text: Floats) -> Floats:
    """Editability: each sample's cosine with the feature of the prompt without the word.

    samples (N, D), text (D,) -> (N,).

    Its mean is the mean of the cosines, as in the authors' code. The cosine of the mean image feature, which the paper describes,
    is larger, because the mean feature is shorter than one.
    """
    return samples.astype(np.float64) @ text.astype(np.float64)


def effect(learned: Floats, untrained: Floats) -> Floats:
    """How far each picture of the learned word is from that of the untrained word from the same noise: one minus their cosine.

    learned, untrained (N, D), row by row -> (N,), each in [0, 2].
    """
    distances: Floats = 1 - (learned.astype(np.float64) * untrained.astype(np.float64)).sum(axis=1)
    return distances


def covered(value: float, floor: float, ceiling: float) -> float:
    """The share of the distance from floor to ceiling; it can be below 0 or above 1. nan if the ceiling is not above the floor."""
    distance = ceiling - floor
    return (value - floor) / distance if distance > SMALLEST_DISTANCE else float("nan")


def interval(values: Floats, rng: np.random.Generator, statistic: Callable[..., Any] = np.mean) -> tuple[float, float]:
    """The 95 % interval (low, high) of a statistic of `values` (N,), `np.mean` or `np.median`, for small N as well.

    The percentile bootstrap is too narrow for few values: for four it covers the mean about 80 times in 100. So its ends are moved
    away from the statistic, by Student's quantile and the bias of the standard deviation (Hesterberg 2015, "What Teachers Should
    Know About the Bootstrap", on narrowness bias). The coverage, simulated by `python -m jobs.bench.interval_coverage`, is in
    docs/measured.md.
    """
    count = len(values)
    if count < 2:
        return float("nan"), float("nan")
    middle, (low, high) = float(statistic(values)), bootstrap_interval(values, rng, statistic=statistic)
    wider = student(count - 1) / NORMAL * math.sqrt(count / (count - 1))
    return middle + wider * (low - middle), middle + wider * (high - middle)


@functools.cache
def student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t distribution. freedom: degrees of freedom, at least 1.

    With t = sqrt(freedom) tan(angle), the density of the angle is cos(angle) ** (freedom - 1).

    >>> round(student(1), 2), round(student(7), 3), round(student(63), 3)
    (12.71, 2.365, 1.998)
    """
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.cumsum((density[1:] + density[:-1]) / 2)
    return math.sqrt(freedom) * math.tan(float(np.interp(0.95 * below[-1], below, angles[1:])))


def bootstrap_interval(
    values: Floats,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 1000,
    statistic: Callable[..., Any] = np.mean,
) -> tuple[float, float]:
    """The percentile bootstrap interval (low, high) of a statistic of `values` (N,), `np.mean` or `np.median`.

    Too narrow below some 30 values: see `interval`.

    statistic: called with (B, N) resampled values and axis=1, returns (B,).
    (nan, nan) for fewer than two values, whose spread is unknown.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    block = max(1, DRAWN_AT_ONCE // len(values))
    drawn = [
        statistic(values[rng.integers(len(values), size=(min(block, resamples - start), len(values)))], axis=1)
        for start in range(0, resamples, block)
    ]
    low, high = np.quantile(np.concatenate(drawn), ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def mean(values: Floats) -> float:
    """nan of no values."""
    return float(values.mean()) if len(values) else math.nan


def nearest_concept(samples: Floats, training: Sequence[Floats]) -> npt.NDArray[np.intp]:
    """Which concept each sample looks most like.

    samples (N, D); training: C arrays (M_c, D) -> (N,) indices into `training`; the first of equal ones.
    """
    return np.stack([image_similarity(samples, images) for images in training], axis=1).argmax(axis=1)
