"""Which new words may become public: the rule for each word, the test over all, and how often both are wrong."""

import math
from typing import Any

import numpy as np
import pytest

from eval.nightly.acceptance import Rule, judge_words, judged_word, reason
from eval.nightly.simulation import acceptance_rates
from eval.scores.summary import ConceptSummary

RULE = Rule()


def word(name: str, reconstruction: float, **changed: Any) -> ConceptSummary:
    """Half-intervals of 0.02; an untrained word has 0.4, real pictures 0.9."""
    fields: dict[str, Any] = {
        "fingerprint": f"f-{name}-{reconstruction}", "placeholder": f"<{name}>", "noun": None, "kind": "object",
        "reconstruction_low": reconstruction - 0.02, "reconstruction_high": reconstruction + 0.02, "reconstruction_floor": 0.4,
        "reconstruction_ceiling": 0.9, "covered": (reconstruction - 0.4) / 0.5, "editability": 0.6, "editability_floor": 0.1,
        "editability_ceiling": 0.7, "editability_covered": 0.8, "steps": 8, "seconds": 1.0, "stopped_by": "steps",
    }  # fmt: skip
    return ConceptSummary(name, reconstruction=reconstruction, **{**fields, **changed})


def accepted(name: str, reconstruction: float, under: str = "u") -> Any:
    return judged_word(word(name, reconstruction), "2026-01-01", under)


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (0.72, 0.75, ""), (0.75, 0.72, ""),
        (0.60, 0.75, "fell from 0.750 to 0.600"),
        (0.41, None, "2% of the way"), (0.41, 0.42, "2% of the way"),
        (0.003, 0.351, "-79% of the way"),
        (0.60, None, ""),
    ],
)  # fmt: skip
def test_a_word_is_held_back_that_fell_or_is_no_better_than_an_untrained_one(
    now: float, before: float | None, said: str
) -> None:
    found = reason(word("owl", now), None if before is None else accepted("owl", before), RULE)
    assert said in found
    assert bool(found) == bool(said)


def test_a_fall_within_the_intervals_or_the_fixed_drop_holds_nothing_back() -> None:
    """Catches a noisy word of four pictures, and a tiny fall that is certain."""
    wide = {"reconstruction_low": 0.5, "reconstruction_high": 0.7}
    assert reason(word("owl", 0.66, **wide), accepted("owl", 0.75), RULE) == ""
    sure = {"reconstruction_low": 0.719, "reconstruction_high": 0.721}
    assert reason(word("owl", 0.72, **sure), accepted("owl", 0.75), RULE) == ""


def test_a_word_without_a_score_and_one_without_a_ceiling_are_judged_too() -> None:
    assert reason(word("owl", math.nan), None, RULE) == "it has no score"
    assert "no better than the untrained" in reason(word("owl", 0.39, covered=math.nan), None, RULE)
    assert reason(word("owl", 0.41, covered=math.nan), None, RULE) == ""


def test_a_night_of_too_few_words_goes_by_the_words_alone() -> None:
    found = judge_words([word("owl", 0.6), word("taxi", 0.74)], {"owl": accepted("owl", 0.75), "taxi": accepted("taxi", 0.75)},
                        "u", RULE)  # fmt: skip
    assert found.held.keys() == {"owl"}
    assert (found.again, found.worse, found.fewest) == (2, False, 8)


def test_a_small_loss_of_all_words_holds_all_of_them_back_but_not_the_new_ones() -> None:
    names = [f"w{number}" for number in range(20)]
    words = [*(word(name, 0.71 + number / 1000) for number, name in enumerate(names)), word("fresh", 0.7)]
    before = {name: accepted(name, 0.73 + number / 1000) for number, name in enumerate(names)}
    found = judge_words(words, before, "u", RULE)
    assert found.worse
    assert found.held.keys() == set(names)
    assert "worse together (reconstruction" in found.held["w3"]


def test_words_that_were_scored_otherwise_are_judged_as_new_ones() -> None:
    """Catches another CLIP's similarities taken for a fall."""
    assert judge_words([word("owl", 0.6)], {"owl": accepted("owl", 0.95, "another CLIP")}, "u", RULE).held == {}


@pytest.mark.parametrize("changed", [2, 8, pytest.param(50, marks=pytest.mark.long)])
def test_the_simulated_gate_holds_few_good_words_back_and_nearly_all_ruined_ones(changed: int) -> None:
    found = acceptance_rates(changed, 60)
    assert found.good_held <= 0.05
    assert found.ruined_missed <= 0.02
    assert found.quiet_nights <= 0.01 + 3 * math.sqrt(0.01 / 60)
    if changed < 8:
        assert found.quiet_nights == 0
    assert np.isfinite(found.fallen_missed)
