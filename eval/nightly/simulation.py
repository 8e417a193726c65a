"""Simulated nights: how often the gate raises an alarm if only seeds changed, and if words have got worse.

The noise is that measured on runs of the shipped model: the standard error of a concept's reconstruction over its eight pictures
has a median of 0.012 and differs about twofold between concepts; that of editability is 0.005. Learning a word again with another
seed is assumed to add as much. Tails are heavy (Student's t with four degrees of freedom).
"""

import math
from dataclasses import dataclass

import numpy as np

from eval.nightly.gate import AFFECTED, Comparison, Floats, Pairs, compare

NOISE = {"reconstruction": 0.012, "editability": 0.005}
MEANS = {"reconstruction": 0.7, "editability": 0.3}


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of simulated nights with an alarm. concepts: on each night.

    quiet: if nothing changed. detectable: the loss of reconstruction that the gate reports as detectable, the median over quiet
    nights; nan if it reports none. noticed: if every concept lost that much. fifth: if a fifth of the concepts lost twice the
    gate's drop. Both losses are of reconstruction only.
    """

    concepts: int
    quiet: float
    detectable: float
    noticed: float
    fifth: float


def scores_of_a_night(rng: np.random.Generator, truth: Floats, metric: str) -> Floats:
    """One night's scores (N,) of words learned with that night's seed."""
    spread = NOISE[metric] * math.sqrt(2) * np.exp(np.linspace(-1, 1, len(truth)))
    scores: Floats = truth + spread * rng.standard_t(4, len(truth)) / math.sqrt(2)  # t4 has a variance of 2
    return scores


def simulated_night(
    rng: np.random.Generator, concepts: int, loss: Floats | float, drop: float, *, baseline: bool
) -> tuple[Comparison, ...]:
    """Compares a night with the last good one, and with a baseline of another seed. loss: of reconstruction tonight."""
    names = [f"concept-{position:04d}" for position in range(concepts)]
    pairs = []
    for metric, mean in MEANS.items():
        truth = rng.normal(mean, 0.1, concepts)
        lost = loss if metric == "reconstruction" else 0.0
        tonight = scores_of_a_night(rng, truth - lost, metric)
        pairs += [Pairs(metric, "", names, scores_of_a_night(rng, truth, metric), tonight) for _ in range(1 + baseline)]
    return compare(pairs, drop)


def a_fifth(rng: np.random.Generator, concepts: int, loss: float) -> Floats:
    """The losses (N,) of a night on which only some concepts lose."""
    hit = np.zeros(concepts)
    hit[rng.choice(concepts, round(concepts * AFFECTED), replace=False)] = loss
    return hit


def rates(concepts: int, nights: int, drop: float = 0.01, *, baseline: bool = True) -> Rates:
    """nights: how many are simulated for each figure."""

    def alarms(seeds: range, loss: float = 0.0, *, fifth: bool = False) -> float:
        hit = 0
        for seed in seeds:
            rng = np.random.default_rng(seed)
            lost = a_fifth(rng, concepts, loss) if fifth else loss
            hit += any(each.alarm for each in simulated_night(rng, concepts, lost, drop, baseline=baseline))
        return hit / nights

    losses = [
        simulated_night(np.random.default_rng(seed), concepts, 0.0, drop, baseline=baseline)[0].detectable
        for seed in range(20)
    ]
    detectable = float(np.median(losses))
    noticed = math.nan if math.isnan(detectable) else alarms(range(nights, 2 * nights), detectable)
    return Rates(
        concepts,
        alarms(range(nights)),
        detectable,
        noticed,
        alarms(range(2 * nights, 3 * nights), 2 * drop, fifth=True),
    )
