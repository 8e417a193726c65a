"""Simulated nights: how often the gate raises an alarm if only seeds changed, and if words have got worse.

The noise is that measured on runs of the shipped model: the standard error of a concept's reconstruction over its eight pictures
has a median of 0.012 and differs about twofold between concepts; that of editability is 0.005. Learning a word again with another
seed is assumed to add as much. Tails are heavy (Student's t with four degrees of freedom).
"""

import math
from dataclasses import dataclass

import numpy as np

from eval.nightly.acceptance import Judged, Rule, judge_words, judged_word
from eval.nightly.gate import AFFECTED, Comparison, Floats, Pairs, compare
from eval.scores.summary import ConceptSummary

NOISE = {"reconstruction": 0.012, "editability": 0.005}
MEANS = {"reconstruction": 0.7, "editability": 0.3}
RULE = Rule()
FALL, RUIN = 0.1, 0.3  # of one word's reconstruction


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


@dataclass(frozen=True, slots=True)
class AcceptanceRates:
    """How often `eval.nightly.acceptance` errs. changed: words learned again on each simulated night.

    good_held: share of words held back if only seeds changed. quiet_nights: share of such nights on which the test over all words
    held all of them back. fallen_missed, ruined_missed: share of words accepted though they lost FALL or RUIN of reconstruction,
    one such word a night. fifth_missed, all_missed: share of nights without an alarm of the test over all words though a fifth of
    them lost 0.02, or all of them 0.02.
    """

    changed: int
    good_held: float
    quiet_nights: float
    fallen_missed: float
    ruined_missed: float
    fifth_missed: float
    all_missed: float


def acceptance_rates(changed: int, nights: int, rule: Rule = RULE) -> AcceptanceRates:
    """nights: how many are simulated for each figure."""

    def judged(seed: int, loss: Floats | float) -> Judged:
        rng = np.random.default_rng(seed)
        truth = {metric: rng.normal(mean, 0.1, changed) for metric, mean in MEANS.items()}
        lost = {"reconstruction": loss, "editability": 0.0}
        before = {metric: scores_of_a_night(rng, truth[metric], metric) for metric in MEANS}
        after = {metric: scores_of_a_night(rng, truth[metric] - lost[metric], metric) for metric in MEANS}
        # The interval that a word's eight pictures give: the seed's part of the noise is not in it.
        half = 1.96 * NOISE["reconstruction"] * np.exp(np.linspace(-1, 1, changed))
        old = {
            word.concept: judged_word(word, "", "")
            for word in (_simulated(before, half, position) for position in range(changed))
        }
        return judge_words([_simulated(after, half, position) for position in range(changed)], old, "", rule)

    def missed(seeds: range, loss: float) -> float:
        ruined = ((seed, seed % changed) for seed in seeds)
        return float(
            np.mean([f"w{one}" not in judged(seed, loss * (np.arange(changed) == one)).held for seed, one in ruined])
        )

    quiet = [judged(seed, 0.0) for seed in range(nights)]
    single = sum(len(night.held) for night in quiet if not night.worse)
    fifths = (
        judged(seed, a_fifth(np.random.default_rng(seed), changed, 0.02)) for seed in range(3 * nights, 4 * nights)
    )
    alls = (judged(seed, 0.02) for seed in range(4 * nights, 5 * nights))
    return AcceptanceRates(
        changed, single / (nights * changed), float(np.mean([night.worse for night in quiet])),
        missed(range(nights, 2 * nights), FALL), missed(range(2 * nights, 3 * nights), RUIN),
        float(np.mean([not night.worse for night in fifths])), float(np.mean([not night.worse for night in alls])),
    )  # fmt: skip


def _simulated(scores: dict[str, Floats], half: Floats, position: int) -> ConceptSummary:
    """A word far above the floor of the rule."""
    mean, width = float(scores["reconstruction"][position]), float(half[position])
    nothing, editability = math.nan, float(scores["editability"][position])
    return ConceptSummary(
        f"w{position}", f"f{mean}", "", None, "object", mean, mean - width, mean + width, nothing, nothing, 1.0, editability,
        nothing, nothing, nothing, 0, 0.0, "",
    )  # fmt: skip
