"""The verdict on a word, in plain words."""

import math
from typing import Any

import pytest

from eval.scores.summary import VERDICTS
from tests.eval.nightly.test_acceptance import word


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "like its pictures"),
        ({"covered": 0.29}, "weak"),
        ({"covered": math.nan}, "like its pictures"),
        ({"covered": math.nan, "reconstruction_floor": 0.9}, "weak"),
        ({"effect": 0.009}, "no effect"),
        ({"diversity": 0.01, "diversity_ceiling": 0.2}, "collapsed"),
        ({"diversity": 0.05, "diversity_ceiling": 0.2}, "like its pictures"),
        ({"fell": True, "effect": 0.0}, "fell"),
        ({"reconstruction": math.nan}, "no score"),
    ],
)
def test_a_word_has_one_verdict_in_plain_words(changed: dict[str, Any], verdict: str) -> None:
    score = changed.pop("reconstruction", 0.7)
    found = word("owl", score, **changed).verdict
    assert found == verdict
    assert found in VERDICTS
