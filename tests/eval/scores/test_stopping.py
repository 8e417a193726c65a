"""Sequential sampling: when it stops, and how often its interval covers what it should."""

import math

import numpy as np
import pytest

from eval.scores.metrics import student
from eval.scores.stopping import FIRST, enough, half_width, rounds


@pytest.mark.parametrize(("freedom", "known"), [(7, 2.3646), (15, 2.1314), (31, 2.0395), (63, 1.9983), (127, 1.9788)])
def test_students_quantile_is_that_of_the_tables(freedom: int, known: float) -> None:
    assert student(freedom) == pytest.approx(known, abs=2e-3)


def test_half_of_the_interval_of_eight_known_values() -> None:
    values = np.array([0.0, 1, 0, 1, 0, 1, 0, 1])
    assert half_width(values) == pytest.approx(2.3646 * math.sqrt(2 / 7) / math.sqrt(8), abs=1e-3)
    assert half_width(values[:1]) == math.inf


def test_it_stops_at_the_first_round_that_is_narrow_enough_and_looks_at_nothing_after_it() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.7, 0.05, 64)
    found = enough(values, 0.02, 64)
    assert found in (16, 32)
    assert half_width(values[:found]) <= 0.02 < half_width(values[: found // 2])
    assert enough(np.concatenate([values[:found], rng.normal(0, 9, 64 - found)]), 0.02, 64) == found
    assert enough(values[: found - 1], 0.02, 64) is None


def test_it_ends_at_the_protocols_count_however_wide_the_interval_is() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.5, 20)
    assert enough(values, 1e-9, 20) == 20
    assert enough(values[:19], 1e-9, 20) is None
    assert enough(values[:4], 1e-9, 4) == 4
    assert list(rounds(20)) == [8, 16, 20]


@pytest.mark.parametrize("spread", [0.002, 0.01, 0.02, 0.05], ids=["at once", "early", "in between", "late"])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_the_interval_covers_nearly_as_often_as_it_says_and_the_mean_stays_true(spread: float, shape: str) -> None:
    """The figures that eval/scores/stopping.py gives for the price of looking several times."""
    rng = np.random.default_rng(1)
    covers, means, counts = [], [], []
    for _ in range(2000):
        noise = rng.normal(size=64) if shape == "normal" else rng.gamma(4, size=64) / 2 - 2
        values = 0.7 + spread * noise
        count = enough(values, 0.01, 64)
        assert count is not None
        covers.append(abs(values[:count].mean() - 0.7) <= half_width(values[:count]))
        means.append(values[:count].mean())
        counts.append(count)
    assert np.mean(covers) >= (0.92 if shape == "normal" else 0.90)
    assert abs(np.mean(means) - 0.7) < 0.06 * spread
    assert FIRST <= np.mean(counts) <= 64
