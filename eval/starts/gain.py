"""What a start is worth: the steps that a word would take from its initializer to be as like. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FITTED, INITIALIZER = "fitted", "initializer"


@dataclass(frozen=True, slots=True)
class Looked:
    """A word after `step` steps. likeness: mean image similarity of its plain pictures to the concept's own; text: mean text
    similarity of its edits, nan without a judge of texts. features (N, D): of the plain pictures.
    """

    start: str
    concept: str
    step: int
    likeness: float
    text: float
    features: np.ndarray


@dataclass(frozen=True, slots=True)
class Gain:
    """concepts: how many words were measured, each by a map that was fitted without it. fitted, initializer: mean likeness of
    words of no step; real: of the concepts' pictures to each other. steps: after how many the words from the initializer are as
    like as the fitted ones are at no step; None where they are not after `most` steps.
    """

    concepts: int
    fitted: float
    initializer: float
    real: float
    steps: int | None
    most: int


def gain_of(looked: Sequence[Looked], real: float) -> Gain:
    """looked: words from both starts, after no step from FITTED."""
    curve: dict[int, list[float]] = {}
    for each in looked:
        if each.start == INITIALIZER:
            curve.setdefault(each.step, []).append(each.likeness)
    fitted = [each.likeness for each in looked if each.start == FITTED]
    means = {step: float(np.mean(values)) for step, values in sorted(curve.items())}
    mean = float(np.mean(fitted))
    reached = next((step for step, value in means.items() if value >= mean), None)
    return Gain(len(fitted), mean, means[0], real, reached, max(means))
