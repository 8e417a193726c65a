"""Simulated nights: how often the gate alarms when nothing but seeds changed, and when words have got worse.

The noise is as measured on runs of the shipped model: the standard error of a concept's reconstruction over its eight
pictures is 0.012 in the median and differs about twofold between concepts; that of editability is 0.005. Learning a word
again from another seed is taken to add as much again. Tails are heavy (Student's t with four degrees of freedom).
"""

import math
from dataclasses import dataclass

import numpy as np

from eval.nightly.gate import AFFECTED, Comparison, Floats, Pairs, compare

NOISE = {"reconstruction": 0.012, "editability": 0.005}
MEANS = {"reconstruction": 0.7, "editability": 0.3}


@dataclass(frozen=True, slots=True)
class Rates:
    """Over simulated nights of so many concepts: how many of them alarmed, as shares.

    quiet: when nothing changed. detectable: the loss of reconstruction that the gate said it would notice, the median of the
    quiet nights; nan where it said none. noticed: when every concept had lost that much. fifth: when a fifth of the concepts
    had lost twice the gate's drop. Both losses are of reconstruction alone.
    """

    concepts: int
    quiet: float
    detectable: float
    noticed: float
    fifth: float


def scores_of_a_night(rng: np.random.Generator, truth: Floats, metric: str) -> Floats:
    """One night's scores (N,) of words learned from that night's seed."""
    spread = NOISE[metric] * math.sqrt(2) * np.exp(np.linspace(-1, 1, len(truth)))
    scores: Floats = truth + spread * rng.standard_t(4, len(truth)) / math.sqrt(2)  # t4 has a variance of 2
    return scores


def simulated_night(
    rng: np.random.Generator, concepts: int, loss: Floats | float, drop: float, *, baseline: bool
) -> tuple[Comparison, ...]:
    """A night against the last good one, and against a baseline of another seed. loss: of reconstruction tonight."""
    names = [f"concept-{position:04d}" for position in range(concepts)]
    pairs = []
    for metric, mean in MEANS.items():
        truth = rng.normal(mean, 0.1, concepts)
        lost = loss if metric == "reconstruction" else 0.0
        tonight = scores_of_a_night(rng, truth - lost, metric)
        pairs += [Pairs(metric, "", names, scores_of_a_night(rng, truth, metric), tonight) for _ in range(1 + baseline)]
    return compare(pairs, drop)


def a_fifth(rng: np.random.Generator, concepts: int, loss: float) -> Floats:
    """The losses (N,) of a night on which only some are hit."""
    hit = np.zeros(concepts)
    hit[rng.choice(concepts, round(concepts * AFFECTED), replace=False)] = loss
    return hit


def rates(concepts: int, nights: int, drop: float = 0.01, *, baseline: bool = True) -> Rates:
    """nights: simulated for each figure."""

    def alarms(seeds: range, loss: float = 0.0, *, fifth: bool = False) -> float:
        hit = 0
        for seed in seeds:
            rng = np.random.default_rng(seed)
            lost = a_fifth(rng, concepts, loss) if fifth else loss
            hit += any(each.alarm for each in simulated_night(rng, concepts, lost, drop, baseline=baseline))
        return hit / nights

    told = [
        simulated_night(np.random.default_rng(seed), concepts, 0.0, drop, baseline=baseline)[0].detectable
        for seed in range(20)
    ]
    detectable = float(np.median(told))
    noticed = math.nan if math.isnan(detectable) else alarms(range(nights, 2 * nights), detectable)
    return Rates(
        concepts,
        alarms(range(nights)),
        detectable,
        noticed,
        alarms(range(2 * nights, 3 * nights), 2 * drop, fifth=True),
    )
