"""The ridge behind start files: what it finds again, what it says of words that it was not fitted to, and its folds."""

import numpy as np

from eval.starts.ridge import FOLDS, _folds, fit_ridge

RNG = np.random.default_rng


def names(count: int) -> list[str]:
    return [f"concept-{number}" for number in range(count)]


def test_a_linear_map_is_found_again_and_explains_all_of_what_it_was_not_fitted_to() -> None:
    """Catches a mean forgotten, a weight transposed, and a lambda that shrinks where there is no noise."""
    x, true = RNG(0).normal(3, 1, (80, 6)), RNG(1).normal(size=(4, 6))
    y = 5 + x @ true.T
    found = fit_ridge(x, y, names(80))
    np.testing.assert_allclose(found.weight, true, atol=1e-2)
    np.testing.assert_allclose(found.bias + (x - found.mean) @ found.weight.T, y, atol=0.05)
    assert found.explained > 0.999


def test_words_that_have_nothing_to_do_with_their_pictures_are_not_explained() -> None:
    """Catches a share measured on the rows that the map was fitted to."""
    found = fit_ridge(RNG(0).normal(size=(60, 40)), RNG(1).normal(size=(60, 8)), names(60))
    assert -0.2 < found.explained < 0.1
    assert found.strength >= 10, "all but the mean is given up"


def test_a_concept_learned_in_several_runs_is_never_its_own_proof() -> None:
    """Catches folds over rows: the same word of another seed would be predicted from itself."""
    x, y = RNG(0).normal(size=(30, 50)), RNG(1).normal(size=(30, 8))
    found = fit_ridge(np.concatenate([x, x]), np.concatenate([y, y]), names(30) * 2)
    assert found.explained < 0.1
    folds = _folds(names(30) * 2)
    np.testing.assert_array_equal(folds[:30], folds[30:])
    assert set(folds.tolist()) == set(range(FOLDS))


def test_each_row_is_guessed_by_a_map_that_has_not_seen_it() -> None:
    x, y = RNG(0).normal(size=(20, 3)), RNG(1).normal(size=(20, 2))
    changed = y.copy()
    changed[7] += 100
    after = fit_ridge(x, changed, names(20))
    own = _folds(names(20)) == _folds(names(20))[7]
    assert np.abs(after.predicted[own]).max() < 50, "its own fold's guesses know nothing of it"
