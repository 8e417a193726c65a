"""The two similarities against values worked out by hand, and the properties that hold for any pictures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eval.scores.metrics import (
    bootstrap_interval,
    covered,
    diversity,
    diversity_interval,
    image_similarity,
    nearest_concept,
    text_similarity,
    training_ceiling,
)

HALF = math.sqrt(0.5)
EAST, NORTH, NORTHEAST = (1.0, 0.0), (0.0, 1.0), (HALF, HALF)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def features(least: int = 1, most: int = 6, width: int = 4) -> st.SearchStrategy[np.ndarray]:
    """Unit rows, none of them near the zero vector before it is made one."""
    return st.integers(least, most).flatmap(
        lambda count: (
            arrays(np.float64, (count, width), elements=st.floats(-1, 1, width=32))
            .filter(lambda rows: bool((np.linalg.norm(rows, axis=1) > 0.1).all()))
            .map(unit)
        )
    )


def test_image_similarity_is_the_mean_over_the_training_images_for_each_sample() -> None:
    found = image_similarity(np.array([EAST, NORTHEAST]), np.array([EAST, NORTH]))
    np.testing.assert_allclose(found, [0.5, math.sqrt(0.5)])


def test_opposite_pictures_have_a_negative_similarity() -> None:
    np.testing.assert_allclose(image_similarity(np.array([EAST]), -np.array([EAST])), [-1])


def test_the_ceiling_leaves_an_image_against_itself_out() -> None:
    # Three pairs: east-north 0, east-northeast and north-northeast 0.7071 each. With self-pairs it would be 0.647.
    assert training_ceiling(np.array([EAST, NORTH, NORTHEAST])) == pytest.approx(2 * math.sqrt(0.5) / 3)
    assert training_ceiling(np.array([EAST, NORTH])) == pytest.approx(0)


def test_one_training_image_has_no_ceiling_and_none_no_similarity() -> None:
    assert math.isnan(training_ceiling(np.array([EAST])))
    assert np.isnan(image_similarity(np.array([EAST, NORTH]), np.empty((0, 2)))).tolist() == [True, True]


def test_text_similarity_is_one_cosine_a_sample() -> None:
    found = text_similarity(np.array([EAST, NORTH, NORTHEAST]), np.array(EAST))
    np.testing.assert_allclose(found, [1, 0, math.sqrt(0.5)])


def test_diversity_is_one_minus_the_mean_cosine_to_the_other_samples() -> None:
    found = diversity(np.array([EAST, NORTH, NORTHEAST]))
    np.testing.assert_allclose(found, [1 - HALF / 2, 1 - HALF / 2, 1 - HALF])
    np.testing.assert_allclose(diversity(np.array([EAST, (-1.0, 0.0)])), [2, 2])


def test_a_word_that_draws_one_picture_again_and_again_has_no_diversity_and_a_single_picture_an_unknown_one() -> None:
    """Catches a self-pair counted in, which would lower the diversity of few pictures more than that of many."""
    np.testing.assert_allclose(diversity(np.array([NORTHEAST] * 5)), 0, atol=1e-12)
    assert np.isnan(diversity(np.array([EAST]))).all()
    assert len(diversity(np.empty((0, 2)))) == 0


@given(samples=features(2))
def test_diversity_is_the_brute_force_distance_over_pairs_and_one_minus_their_ceiling(samples: np.ndarray) -> None:
    count = len(samples)
    pairs = [1 - float(samples[i] @ samples[j]) for i in range(count) for j in range(count) if i != j]
    assert diversity(samples).mean() == pytest.approx(np.mean(pairs), abs=1e-12)
    assert diversity(samples).mean() == pytest.approx(1 - training_ceiling(samples), abs=1e-12)


@given(samples=features(2), seed=st.integers(0, 99))
def test_diversity_follows_its_samples_when_they_change_places_and_falls_with_copies(
    samples: np.ndarray, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(samples))
    np.testing.assert_allclose(diversity(samples[order]), diversity(samples)[order], atol=1e-12)
    assert diversity(np.concatenate([samples, samples])).mean() <= diversity(samples).mean() + 1e-12


def test_the_interval_of_diversity_holds_the_true_one_about_as_often_as_it_says() -> None:
    """Catches an interval half as wide as it should be, from taking values that share their pairs for independent."""
    rng = np.random.default_rng(0)
    centre, width, held = np.r_[3.0, np.zeros(7)], 8, 0
    truth = diversity(unit(centre + rng.normal(size=(3000, width)))).mean()
    for _ in range(300):
        low, high = diversity_interval(diversity(unit(centre + rng.normal(size=(24, width)))), rng)
        held += low <= truth <= high
    assert 0.86 <= held / 300 <= 0.99


@given(samples=features(), training=features())
def test_image_similarity_is_the_brute_force_mean_of_all_pairs(samples: np.ndarray, training: np.ndarray) -> None:
    pairs = [[float(np.dot(one, other)) for other in training] for one in samples]
    np.testing.assert_allclose(image_similarity(samples, training), np.mean(pairs, axis=1), atol=1e-12)


@given(samples=features(2), training=features(2), seed=st.integers(0, 99))
def test_the_order_of_pictures_does_not_matter(samples: np.ndarray, training: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, shuffled = rng.permutation(len(samples)), rng.permutation(training)
    np.testing.assert_allclose(
        image_similarity(samples[order], shuffled), image_similarity(samples, training)[order], atol=1e-12
    )
    assert training_ceiling(shuffled) == pytest.approx(training_ceiling(training), abs=1e-12)


@given(samples=features(), training=features())
def test_every_picture_twice_changes_no_similarity(samples: np.ndarray, training: np.ndarray) -> None:
    twice = image_similarity(samples, np.concatenate([training, training]))
    np.testing.assert_allclose(twice, image_similarity(samples, training), atol=1e-12)


@given(training=features(2))
def test_the_ceiling_is_the_brute_force_mean_over_pairs_of_different_images(training: np.ndarray) -> None:
    count = len(training)
    pairs = [float(training[i] @ training[j]) for i in range(count) for j in range(count) if i != j]
    assert training_ceiling(training) == pytest.approx(np.mean(pairs), abs=1e-12)


@given(training=features(1, 5))
def test_copies_of_one_set_raise_its_ceiling_because_a_copy_is_a_different_image(training: np.ndarray) -> None:
    repeated = np.concatenate([training, training])
    count = len(training)
    among = training @ training.T
    assert training_ceiling(repeated) == pytest.approx((4 * among.sum() - 2 * count) / (2 * count * (2 * count - 1)))


@given(samples=features(), training=features(), factor=st.floats(-3, 3))
def test_similarities_are_linear_in_the_training_features(
    samples: np.ndarray, training: np.ndarray, factor: float
) -> None:
    scaled = image_similarity(samples, factor * training)
    np.testing.assert_allclose(scaled, factor * image_similarity(samples, training), atol=1e-9)


@given(
    value=st.floats(-1, 1), floor=st.floats(-1, 1), distance=st.floats(1e-3, 2),
    scale=st.floats(0.1, 100), shift=st.floats(-5, 5),
)  # fmt: skip
def test_the_covered_share_does_not_depend_on_the_unit(
    value: float, floor: float, distance: float, scale: float, shift: float
) -> None:
    ceiling = floor + distance
    in_another_unit = covered(scale * value + shift, scale * floor + shift, scale * ceiling + shift)
    assert in_another_unit == pytest.approx(covered(value, floor, ceiling), abs=1e-6, rel=1e-6)


def test_covered_is_a_share_of_the_way_and_nan_without_a_way() -> None:
    assert covered(0.5, 0.2, 0.6) == pytest.approx(0.75)
    assert covered(0.1, 0.2, 0.6) == pytest.approx(-0.25)
    assert covered(0.7, 0.2, 0.6) == pytest.approx(1.25)
    for value, floor, ceiling in ((0.5, 0.4, 0.4), (0.5, 0.6, 0.4), (0.5, math.nan, 0.6), (0.5, 0.2, math.nan)):
        assert math.isnan(covered(value, floor, ceiling))


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(0.4, 0.1, size=40), rng, resamples=300)
        held += low <= 0.4 <= high
    assert 0.89 <= held / 300 <= 0.99


def test_the_interval_of_a_median_is_about_the_median() -> None:
    values = np.array([0.0] * 60 + [100.0] * 40)
    assert bootstrap_interval(values, np.random.default_rng(0), statistic=np.median) == (0.0, 0.0)
    low, high = bootstrap_interval(values, np.random.default_rng(0))
    assert 25 < low < 40 < high < 55


def test_the_interval_is_the_same_for_the_same_generator_and_narrower_for_a_lower_level() -> None:
    values = np.linspace(0, 1, 30)
    wide = bootstrap_interval(values, np.random.default_rng(3))
    assert wide == bootstrap_interval(values, np.random.default_rng(3))
    narrow = bootstrap_interval(values, np.random.default_rng(3), level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_one_value_has_no_interval() -> None:
    assert np.isnan(bootstrap_interval(np.array([0.4]), np.random.default_rng(0))).all()
    assert np.isnan(bootstrap_interval(np.array([]), np.random.default_rng(0))).all()


@given(values=arrays(np.float64, st.integers(2, 12), elements=st.floats(-1, 1)))
@settings(max_examples=30)
def test_the_interval_stays_within_the_values(values: np.ndarray) -> None:
    low, high = bootstrap_interval(values, np.random.default_rng(0), resamples=50)
    assert values.min() - 1e-12 <= low <= high <= values.max() + 1e-12


def test_samples_are_nearest_to_the_concept_they_show() -> None:
    training = [np.array([EAST, NORTHEAST]), np.array([NORTH])]
    assert nearest_concept(np.array([EAST, NORTH, NORTHEAST]), training).tolist() == [0, 1, 0]
