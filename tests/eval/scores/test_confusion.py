"""Whose training images a word's pictures look like, on features whose answer can be read off."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scores.confusion import FEATURES, MOST_COMPARED, Features, Mistaken, confusion_over, features_of

EAST, NORTH, UP = np.eye(3)
HALF = math.sqrt(0.5)


def of(training: np.ndarray, *samples: np.ndarray) -> Features:
    return Features(training, np.stack(samples))


def test_words_that_drew_their_own_concept_are_right_and_one_that_drew_anothers_is_named() -> None:
    found = confusion_over({"a": of(EAST, EAST, EAST), "b": of(NORTH, NORTH, EAST), "c": of(UP, UP)})
    assert found is not None
    assert found.concepts == 3
    assert found.chance == pytest.approx(1 / 3)
    assert found.nearest_own == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.by_concept == {"a": 1, "b": 0.5, "c": 1}
    assert found.mistaken == (Mistaken("b", "a", 0.5),)
    assert found.own == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.other == pytest.approx(0.5 / 6)  # of six pairs only b's pictures are half like a's


def test_it_is_the_brute_force_mean_over_all_training_images() -> None:
    """Catches a mean training feature that was made a unit vector, which would favour concepts of varied images."""
    varied, plain = np.stack([EAST, NORTH]), np.stack([(EAST + UP) * HALF])
    picture = (EAST + NORTH + UP) / math.sqrt(3)
    found = confusion_over({"varied": of(varied.mean(0), picture), "plain": of(plain.mean(0), picture)})
    assert found is not None
    assert found.by_concept == {"varied": 0, "plain": 1}
    assert found.own == pytest.approx(np.mean([(varied @ picture).mean(), (plain @ picture).mean()]))


@given(seed=st.integers(0, 99))
def test_neither_the_order_of_concepts_nor_copies_of_pictures_nor_the_scale_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = {name: of(rng.normal(size=4), *rng.normal(size=(3, 4))) for name in "abcd"}
    changed = {
        name: Features(2 * given[name].training, np.concatenate([given[name].samples] * 2)) for name in reversed("abcd")
    }
    one, other = confusion_over(given), confusion_over(changed)
    assert one is not None
    assert other is not None
    assert other.by_concept == one.by_concept
    assert other.mistaken == one.mistaken
    assert other.own == pytest.approx(2 * one.own)


def test_words_that_know_nothing_are_right_about_as_often_as_a_blind_guess() -> None:
    rng = np.random.default_rng(0)
    found = confusion_over({str(n): of(rng.normal(size=32), *rng.normal(size=(8, 32))) for n in range(50)})
    assert found is not None
    assert abs(found.nearest_own - found.chance) < 0.02


def test_of_many_concepts_an_even_spread_is_compared() -> None:
    rng = np.random.default_rng(0)
    found = confusion_over({f"{n:04d}": of(row, row) for n, row in enumerate(rng.normal(size=(2000, 8)))})
    assert found is not None
    assert found.concepts == len(found.by_concept) == MOST_COMPARED
    assert max(found.by_concept) > "1990"


def test_a_single_concept_has_nobody_to_be_mistaken_for() -> None:
    assert confusion_over({"a": of(EAST, EAST)}) is None
    assert confusion_over({}) is None
    assert confusion_over({"a": of(EAST, EAST), "b": Features(NORTH, np.empty((0, 3)))}) is None


def test_features_survive_the_way_to_a_table_and_back() -> None:
    row = {"concept": "a", "fingerprint": "f", "protocol": "p", "clip": "c", "clip_digest": "d",
           "training": EAST, "samples": [EAST, NORTH]}  # fmt: skip
    (kept,) = features_of(pa.Table.from_pylist([{**row, "pictures": [UP, EAST]}], FEATURES)).values()
    np.testing.assert_array_equal(kept.real, [UP, EAST])
    found = features_of(pa.Table.from_pylist([row], FEATURES))
    np.testing.assert_array_equal(found["a"].real, [EAST], "an older table has their mean alone")
    np.testing.assert_array_equal(found["a"].training, EAST)
    np.testing.assert_array_equal(found["a"].samples, [EAST, NORTH])


def test_a_picture_that_ranks_its_own_concept_second_among_look_alikes_is_half_right() -> None:
    found = confusion_over({"a": of(EAST, EAST), "b": of(NORTH, 0.6 * NORTH + 0.8 * EAST), "c": of(UP, UP)})
    assert found is not None
    assert found.precision == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert found.precision_by_chance == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_each_real_picture_of_the_concept_is_to_be_found_before_those_of_others() -> None:
    """Mean average precision by hand: own images at ranks 1 and 3 of 4 give (1 + 2/3) / 2; at 2 and 4, (1/2 + 2/4) / 2."""
    query, scale = np.array([1.0, 0, 0]), np.array([0.9, 0.8, 0.7, 0.6])
    images = np.stack([scale, np.sqrt(1 - scale**2), np.zeros(4)], axis=1)
    one, other = images[[0, 2]], images[[1, 3]]
    found = confusion_over({
        "one": Features(one.mean(0), query[None], one), "other": Features(other.mean(0), query[None], other)
    })  # fmt: skip
    assert found is not None
    assert found.precision == pytest.approx(((1 + 2 / 3) / 2 + (1 / 2 + 2 / 4) / 2) / 2)
    orders = [(1 / i + 2 / j) / 2 for i in range(1, 5) for j in range(i + 1, 5)]
    assert found.precision_by_chance == pytest.approx(np.mean(orders))


def test_only_look_alikes_are_ranked_and_words_that_know_nothing_are_at_chance() -> None:
    """Catches a gallery of a thousand strangers, in which every cat is found first among cars."""
    rng = np.random.default_rng(0)
    blind = confusion_over({str(n): of(rng.normal(size=32), *rng.normal(size=(8, 32))) for n in range(60)})
    assert blind is not None
    assert abs(blind.precision - blind.precision_by_chance) < 0.03
    assert blind.precision_by_chance == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 10)
    twins = {f"{n}{half}": np.eye(20)[n] + (0.1 if half == "x" else -0.1) * UP20 for n in range(12) for half in "xy"}
    swapped = {name: of(row, twins[name[:-1] + ("y" if name[-1] == "x" else "x")]) for name, row in twins.items()}
    found = confusion_over(swapped)
    assert found is not None
    assert found.precision == pytest.approx(0.5), "each ranks its twin first and itself second"


UP20 = np.eye(20)[19]
