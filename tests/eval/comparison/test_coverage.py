"""The stated coverage of intervals, held by the simulation that docs/measured.md's table is printed by."""

import numpy as np
import pytest

from eval.comparison.coverage import cost_coverage, coverage, two_way_coverage
from eval.comparison.two_way import resampled, two_way_interval
from eval.scores.metrics import bootstrap_interval, student


@pytest.mark.parametrize("count", [3, 4, 8, 20])
@pytest.mark.parametrize("shape", ["normal", "skewed", "outliers"])
def test_the_interval_of_few_values_covers_their_mean_as_often_as_is_said(shape: str, count: int) -> None:
    """Catches intervals of four values that say 95 % and cover 80."""
    least = 0.90 if shape == "skewed" else 0.925
    assert least <= coverage("mean", shape, count, 500) <= 0.985


@pytest.mark.parametrize("count", [4, 12, 20])
def test_the_interval_of_a_median_covers_as_often_as_is_said(count: int) -> None:
    assert coverage("median", "skewed", count, 500) >= 0.93


@pytest.mark.parametrize("count", [4, 8])
def test_the_interval_of_diversity_covers_as_often_as_is_said(count: int) -> None:
    assert coverage("diversity", "normal", count, 500) >= 0.92


def test_the_plain_bootstrap_of_four_values_does_not() -> None:
    """What the widening is for; if this ever covers, the widening can go."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(500):
        low, high = bootstrap_interval(rng.normal(size=4), rng)
        held += low <= 0 <= high
    assert held / 500 < 0.87


@pytest.mark.parametrize("shared", [0.0, 0.5], ids=["seeds alike", "a good seed and a bad one"])
def test_the_interval_over_seeds_and_concepts_covers_though_three_seeds_are_few(shared: float) -> None:
    """Catches intervals over concepts alone, which three training seeds do not move at all."""
    assert 0.93 <= two_way_coverage(3, 20, shared, 1000) <= 0.99


def test_the_interval_of_a_cost_covers_as_often_as_is_said() -> None:
    assert cost_coverage(3, 20, 200) >= 0.88


def test_one_seed_is_the_spread_over_concepts_alone_and_one_concept_has_no_interval() -> None:
    values = np.random.default_rng(0).normal(size=(1, 10))
    half = student(9) * values.std(ddof=1) / 10**0.5
    assert two_way_interval(values) == pytest.approx((values.mean() - half, values.mean() + half))
    assert np.isnan(two_way_interval(np.ones((3, 1)))).all()
    assert two_way_interval(np.ones((3, 4))) == (1, 1)


def test_seeds_and_concepts_are_both_drawn_and_the_first_draw_is_all() -> None:
    draws = resampled(3, 5, 50, np.random.default_rng(0))
    assert [each.tolist() for each in draws[0]] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert len({tuple(seeds) for seeds, _ in draws}) > 5
    assert len({tuple(concepts) for _, concepts in draws}) > 40


@pytest.mark.parametrize(("freedom", "known"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (19, 2.093)])
def test_students_quantile_is_that_of_the_tables_for_few_degrees_too(freedom: float, known: float) -> None:
    assert student(freedom) == pytest.approx(known, abs=1e-3)
