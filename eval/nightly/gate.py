"""Tests whether tonight's words are worse than those of the last good night: paired tests with a bounded rate of false alarms.

Each concept is its own control: the tests use the difference of its two scores. Words that were not learned again have unchanged
scores and are left out.

The test is Wilcoxon's signed-rank test (1945), one-sided. If only seeds changed, a difference is as likely positive as negative,
whatever its size. This holds for noise of any distribution, also if it differs between concepts. Metrics and groups are corrected
together (Holm 1979), so that at most a share `rate` of the nights without a change has any alarm.

An alarm needs a p-value of at most `rate` divided by the number of comparisons: with two metrics, seven words that all lost
(p = 1/128) are not enough, but eight are.

With thousands of concepts a test detects losses too small to matter. So an alarm also needs a mean loss as large as if a fifth of
the concepts had lost `drop`. A fifth, because a regression often affects only some of the concepts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

RATE = 0.01
AFFECTED = 0.2
# Up to this many differences all signs are enumerated; above, the normal approximation is right to three digits.
EXACT = 14
POWER = 0.8  # power at the loss reported as detectable
# Up to this many words the detectable loss is found by simulation.
SIMULATED, NIGHTS = 60, 500
LISTED = 5


@dataclass(frozen=True, slots=True)
class Pairs:
    """Scores of the same N concepts on two nights. group: "" for all concepts together."""

    metric: str
    group: str
    names: Sequence[str]
    before: Floats
    after: Floats


@dataclass(frozen=True, slots=True)
class Change:
    """One concept's score on the last good night and tonight."""

    concept: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The change of one metric in one group.

    n: concepts compared, all of them learned again. before, after: their means.
    p: one-sided, after Holm's correction over all comparisons of the night.
    detectable: the loss of the mean that would raise an alarm, by both of its conditions, four times in five; nan if no loss would,
    because too few concepts are compared or no drop is given.
    alarm: the loss is both significant and large enough. lowest: the concepts that lost most.
    """

    metric: str
    group: str
    n: int
    before: float
    after: float
    p: float
    detectable: float
    alarm: bool
    lowest: tuple[Change, ...]


def compare(pairs: Sequence[Pairs], drop: float, rate: float = RATE) -> tuple[Comparison, ...]:
    """drop: the loss in a fifth of the concepts that raises an alarm. rate: highest share of nights with a false alarm."""
    differences = [each.after - each.before for each in pairs]
    adjusted = holm([signed_rank(each) for each in differences])
    return tuple(
        Comparison(
            each.metric,
            each.group,
            len(change),
            _mean(each.before),
            _mean(each.after),
            p,
            _detectable(change, rate / len(pairs), drop * AFFECTED),
            bool(p <= rate and _mean(change) <= -drop * AFFECTED),
            _lowest(each),
        )
        for each, change, p in zip(pairs, differences, adjusted, strict=True)
    )


def signed_rank(differences: Floats) -> float:
    """The probability that random signs make the rank sum of the differences (N,) this low or lower. 1 without a difference."""
    values = differences[differences != 0]
    if not len(values):
        return 1.0
    ranks = _ranks(np.abs(values))
    rank_sum = float((np.sign(values) * ranks).sum())
    if len(values) <= EXACT:
        return float((_tosses(len(values)) @ ranks <= rank_sum + 1e-9).mean())
    return NormalDist().cdf(rank_sum / math.sqrt(float((ranks**2).sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: comparing each with a rate keeps the probability of any false alarm below that rate (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def paired(
    metric: str, group: str, before: Mapping[str, tuple[str, float]], after: Mapping[str, tuple[str, float]]
) -> Pairs:
    """Concepts scored on both nights whose word or score has changed.

    before, after: concept -> (fingerprint of its word, score), nan without one.
    """
    names = sorted(
        name
        for name in before.keys() & after.keys()
        if before[name] != after[name] and not math.isnan(before[name][1] + after[name][1])
    )
    return Pairs(metric, group, names, np.array([before[n][1] for n in names]), np.array([after[n][1] for n in names]))


def _ranks(sizes: Floats) -> Floats:
    """Ranks (N,), 1 for the smallest; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2)[inverse]
    return shared


def _detectable(differences: Floats, rate: float, least: float) -> float:
    """rate: of false alarms in one comparison. least: the smallest loss of the mean that can raise an alarm.

    Differences are taken as normal with their own spread; above SIMULATED, the rank test as equal in power to a test of means.
    """
    n = len(differences)
    if 0.5**n > rate or not math.isfinite(least):
        return math.nan
    spread, normal = float(differences.std(ddof=1)), NormalDist()
    if n > SIMULATED:
        error = spread / math.sqrt(n)
        return max(normal.inv_cdf(1 - rate) * error, least) + normal.inv_cdf(POWER) * error
    noise, highest = spread * np.random.default_rng(0).standard_normal((NIGHTS, n)), _highest_sum(n, rate)
    low, high = 0.0, least + 10 * spread
    for _ in range(20):
        middle = (low + high) / 2
        tonight = noise - middle
        ranks = np.abs(tonight).argsort(axis=1).argsort(axis=1) + 1
        alarms = ((np.sign(tonight) * ranks).sum(axis=1) <= highest) & (tonight.mean(axis=1) <= -least)
        low, high = (low, middle) if alarms.mean() >= POWER else (middle, high)
    return high


def _highest_sum(n: int, rate: float) -> float:
    """The critical rank sum of n signed ranks: the highest with a probability of at most `rate` for that sum or a lower one."""
    if n > EXACT:
        return NormalDist().inv_cdf(rate) * math.sqrt(n * (n + 1) * (2 * n + 1) / 6)
    sums, counts = np.unique(_tosses(n) @ np.arange(1, n + 1), return_counts=True)
    return float(sums[np.cumsum(counts) <= rate * 2**n][-1])


def _tosses(n: int) -> npt.NDArray[np.int64]:
    """All combinations of n signs, (2**n, n)."""
    signs: npt.NDArray[np.int64] = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    return signs


def _lowest(pairs: Pairs) -> tuple[Change, ...]:
    change = pairs.after - pairs.before
    return tuple(
        Change(pairs.names[index], float(pairs.before[index]), float(pairs.after[index]))
        for index in np.argsort(change, kind="stable")[:LISTED]
        if change[index] < 0
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan
