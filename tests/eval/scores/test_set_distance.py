"""CMMD orders sets of pictures as it should, beside a plain sum over pairs."""

import math

import numpy as np
import pytest

from eval.scores.metrics import Floats
from eval.scores.set_distance import cmmd, set_distance_of


def around(place: int, count: int, spread: float = 0.3, seed: int = 0) -> Floats:
    rows = np.eye(16)[place] + np.random.default_rng(seed).normal(scale=spread, size=(count, 16))
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def test_it_is_the_mean_over_pairs_of_different_pictures() -> None:
    one, other = around(0, 5), around(1, 4, seed=1)

    def kernel(a: Floats, b: Floats) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / 200)

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(some) for j, b in enumerate(some) if i != j])
        for some in (one, other)
    ]
    across = np.mean([kernel(a, b) for a in one for b in other])
    assert cmmd(one, other) == pytest.approx(1000 * (sum(within) - 2 * across), rel=1e-9)
    assert math.isnan(cmmd(one[:1], other))


def test_the_same_distribution_is_nearest_then_a_shifted_one_then_another_thing() -> None:
    real = around(0, 200)
    same, shifted, elsewhere = (
        around(0, 200, seed=1),
        0.7 * around(0, 200, seed=2) + 0.3 * around(1, 200),
        around(1, 200),
    )
    shifted /= np.linalg.norm(shifted, axis=1, keepdims=True)
    distances = [cmmd(some, real) for some in (same, shifted, elsewhere)]
    assert abs(distances[0]) < 0.1 < distances[1] < distances[2]


def test_a_word_that_draws_one_picture_over_and_over_is_further_away_than_one_that_varies_as_real_pictures_do() -> None:
    """Its mean similarity is the higher of the two: what a mean of cosines cannot see."""
    real = around(0, 100, spread=0.4)
    collapsed = np.repeat(real.mean(axis=0, keepdims=True) / np.linalg.norm(real.mean(axis=0)), 100, axis=0)
    varied = around(0, 100, spread=0.4, seed=1)
    assert (collapsed @ real.T).mean() > (varied @ real.T).mean()
    assert cmmd(collapsed, real) > cmmd(varied, real) + 0.5


def test_a_run_has_it_over_all_its_concepts_with_both_references() -> None:
    rows = [
        {
            "pictures": around(place, 6, seed=place).tolist(), "samples": around(place, 8, seed=place + 5).tolist(),
            "untrained": around(9, 4, seed=place + 10).tolist(),
        }
        for place in range(5)
    ]  # fmt: skip
    found = set_distance_of(rows)
    assert found is not None
    assert found.drawn < found.untrained
    assert abs(found.real) < 1 < found.untrained
    assert (found.pictures, found.training) == (40, 30)
    two = [{**row, "untrained": []} for row in rows]
    without = set_distance_of(two)
    assert without is not None
    assert math.isnan(without.untrained)
    old = [{**row, "pictures": None, "untrained": None} for row in rows]
    assert set_distance_of(old) is None
    assert set_distance_of([]) is None
