"""CMMD (Jayasumana et al. 2024, arXiv 2401.09603): how far a set of pictures is from a set of real ones.

The squared maximum mean discrepancy of CLIP features of length one under a Gaussian kernel of width 10, times 1,000: 0 for two sets
of one distribution. Unlike a mean similarity it sees whether drawn pictures vary as real ones do. It is a figure of a whole run: a
concept's three to five pictures are too few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.scores.metrics import Floats

WIDTH, SCALE = 10.0, 1000.0
# Of larger sets this many evenly spaced pictures are compared.
MOST_PICTURES = 3000


@dataclass(frozen=True, slots=True)
class SetDistance:
    """drawn: distance of the plain prompt's pictures from the training images. untrained: that of the untrained words' pictures.
    real: distance between two halves of the training images, each with half of a concept's.
    pictures, training: how many were compared.
    """

    drawn: float
    untrained: float
    real: float
    pictures: int
    training: int


def cmmd(one: Floats, other: Floats) -> float:
    """The unbiased estimate, which can be a little below 0. one (N, D), other (M, D); nan for fewer than two in either."""
    count, others = len(one), len(other)
    if min(count, others) < 2:
        return float("nan")
    within = [(_kernel(each, each).sum() - len(each)) / (len(each) * (len(each) - 1)) for each in (one, other)]
    return float(SCALE * (sum(within) - 2 * _kernel(one, other).mean()))


def set_distance_of(rows: Sequence[Mapping[str, Any]]) -> SetDistance | None:
    """rows: of the table of features. None if it has too few pictures, or is of a version that did not keep those of training."""
    rows = [row for row in rows if row["pictures"] and row["samples"]]
    drawn, untrained, training = (_of(rows, column) for column in ("samples", "untrained", "pictures"))
    if min(len(drawn), len(training)) < 2:
        return None
    halves = [[{"pictures": row["pictures"][start::2]} for row in rows] for start in (0, 1)]
    return SetDistance(
        drawn=cmmd(drawn, training),
        untrained=cmmd(untrained, training),
        real=cmmd(*(_of(half, "pictures") for half in halves)),
        pictures=len(drawn),
        training=len(training),
    )


def _kernel(one: Floats, other: Floats) -> Floats:
    one, other = one.astype(np.float64), other.astype(np.float64)
    squared = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None] - 2 * one @ other.T
    values: Floats = np.exp(-squared / (2 * WIDTH**2))
    return values


def _of(rows: Sequence[Mapping[str, Any]], column: str) -> Floats:
    every = [picture for row in rows for picture in row[column] or ()]
    count = min(len(every), MOST_PICTURES)
    some = [every[place * len(every) // count] for place in range(count)]
    return np.array(some, np.float64) if some else np.empty((0, 0))
