"""Verdicts of words of which it is known what they are worth."""

from typing import Any

import numpy as np

from eval.nightly.stand_ins import LEARNED, MOST_ALIKE, OTHER_NOISE, OTHERS, SAME_NOISE, stand_ins
from eval.scores.summary import ALIKE, IS_WEAK, NONE, ConceptSummary
from tests.eval.nightly.test_acceptance import word

DIRECTIONS = {"taxi": (1.0, 0.1, 0.0, 0.0), "bus": (1.0, -0.1, 0.0, 0.0), "owl": (0.0, 0.0, 1.0, 0.0)}
UNTRAINED = (0.0, 0.0, 0.0, 1.0)


def features(name: str, fingerprint: str, untrained: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(len(name))

    def near(direction: tuple[float, ...], count: int) -> list[list[float]]:
        drawn = np.array(direction) + rng.normal(0, 0.1, (count, 4))
        return [[float(each) for each in row / np.linalg.norm(row)] for row in drawn]

    return {
        "concept": name, "fingerprint": fingerprint, "training": np.mean(near(DIRECTIONS[name], 4), axis=0).tolist(),
        "samples": near(DIRECTIONS[name], 4), "untrained": near(UNTRAINED, untrained) or None,
    }  # fmt: skip


def learned(name: str, score: float = 0.8) -> ConceptSummary:
    return word(name, score, effect=0.5, diversity=0.03, diversity_ceiling=0.03)


def verdicts(words: list[ConceptSummary]) -> list[str]:
    return [each.verdict for each in words]


def test_an_untrained_word_has_no_effect_and_anothers_word_is_weak_unless_the_two_look_alike() -> None:
    """Catches limits, or a floor and a ceiling, that let a word pass that learned nothing."""
    words = [learned(name) for name in DIRECTIONS]
    found = stand_ins(words, [features(each.concept, each.fingerprint) for each in words])
    assert verdicts(found[LEARNED]) == [ALIKE] * 3
    assert verdicts(found[SAME_NOISE]) == [NONE] * 3
    assert verdicts(found[OTHER_NOISE]) == [IS_WEAK] * 3
    by_pair = dict(
        zip([(a, b) for a in DIRECTIONS for b in DIRECTIONS if a != b], verdicts(found[OTHERS]), strict=True)
    )
    alike = {pair for pair, verdict in by_pair.items() if verdict == ALIKE}
    assert alike == {("taxi", "bus"), ("bus", "taxi")}
    assert verdicts(found[MOST_ALIKE]) == [ALIKE, ALIKE, IS_WEAK]


def test_words_without_scores_or_of_other_fingerprints_or_old_features_are_left_out() -> None:
    """Catches a word that was learned again since, judged by the pictures of the one before."""
    words = [learned("taxi"), learned("owl"), learned("bus", float("nan"))]
    rows = [
        features("taxi", words[0].fingerprint, untrained=0),
        features("owl", "of-another-word"),
        features("bus", words[2].fingerprint),
    ]
    found = stand_ins(words, rows)
    assert [each.concept for each in found[LEARNED]] == ["taxi"]
    assert not any(found[group] for group in (SAME_NOISE, OTHER_NOISE, OTHERS, MOST_ALIKE))
