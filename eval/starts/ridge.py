"""Ridge regression (Hoerl and Kennard 1970) from features to words, its lambda chosen by cross-validation over concepts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

FOLDS = 10
# Lambdas, in multiples of the features' mean variance over a direction times the number of rows.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-8, 7))


@dataclass(frozen=True, slots=True)
class Ridge:
    """weight (O, F), mean (F,), bias (O,): a row x is mapped to bias + weight (x - mean).

    strength: the lambda chosen, see STRENGTHS. explained: share of the variance of rows that the map was not fitted to.
    predicted (N, O): each row by a map that was fitted without its concept.
    """

    weight: Doubles
    mean: Doubles
    bias: Doubles
    strength: float
    explained: float
    predicted: Doubles


def fit_ridge(features: npt.ArrayLike, words: npt.ArrayLike, concepts: Sequence[str]) -> Ridge:
    """features (N, F), words (N, O), concepts: N names; rows of one concept are always in one fold.

    Raises ValueError for fewer than two concepts.
    """
    x, y = np.asarray(features, np.float64), np.asarray(words, np.float64)
    folds = _folds(concepts)
    predicted = np.empty((len(STRENGTHS), *y.shape))
    around = np.empty_like(y)
    for fold in range(folds.max() + 1):
        out = folds == fold
        mean, bias = x[~out].mean(0), y[~out].mean(0)
        around[out] = bias
        for number, weight in enumerate(_weights(x[~out] - mean, y[~out] - bias)):
            predicted[number, out] = bias + (x[out] - mean) @ weight
    errors = np.square(predicted - y).sum((1, 2))
    best = int(errors.argmin())
    spread = float(np.square(y - around).sum())
    mean, bias = x.mean(0), y.mean(0)
    weight = _weights(x - mean, y - bias)[best].T
    explained = 1 - float(errors[best]) / spread if spread > 0 else 0.0
    return Ridge(weight, mean, bias, STRENGTHS[best], explained, predicted[best])


def _weights(x: Doubles, y: Doubles) -> list[Doubles]:
    """(F, O) for each strength. x, y: centred."""
    strengths, axes = np.linalg.eigh(x.T @ x)
    turned, usual = axes.T @ (x.T @ y), max(float(strengths.mean()), 1e-12)
    return [axes @ (turned / (strengths.clip(0) + strength * usual)[:, None]) for strength in STRENGTHS]


def _folds(concepts: Sequence[str]) -> npt.NDArray[np.intp]:
    """(N,): the number of each row's fold, which depends on nothing but the names."""
    names = sorted(set(concepts), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < 2:
        raise ValueError("a map is fitted to at least two concepts")
    fold = {name: place % min(FOLDS, len(names)) for place, name in enumerate(names)}
    return np.array([fold[name] for name in concepts])
