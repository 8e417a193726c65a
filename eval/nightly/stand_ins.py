"""Words whose verdict is known beforehand, made from the features of a scored run: what the limits of a verdict rest on.

Pictures that its own word did not draw meet the training images of each concept. An untrained word should have no effect or be
weak, and so should another concept's word unless the two look alike. Nothing is drawn or encoded: features/ has all pictures.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eval.scores.metrics import Floats, covered, diversity, image_similarity, mean
from eval.scores.summary import ConceptSummary

LEARNED, SAME_NOISE, OTHER_NOISE, OTHERS, MOST_ALIKE = GROUPS = (
    "its own word", "the untrained word, same noise", "the untrained word, other noise", "another concept's word",
    "the most similar concept's word",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stood:
    """One concept's summary beside its features: training (D,), their mean; samples (N, D) by its word, untrained (M, D)."""

    word: ConceptSummary
    training: Floats
    samples: Floats
    untrained: Floats


def stand_ins(
    words: Iterable[ConceptSummary], features: Sequence[Mapping[str, Any]]
) -> dict[str, list[ConceptSummary]]:
    """Group of GROUPS -> the concepts' summaries, as if their pictures were those of the group.

    features: rows of eval.scores.confusion.FEATURES, of objects and styles. Concepts without a score are left out, and untrained
    words of runs that were scored by versions that kept no features of them. What the untrained word drew from other noise is
    half of its pictures; the other half is their floor.
    """
    rows = {(row["concept"], row["fingerprint"]): row for row in features}
    stood = [
        Stood(word, *(np.array(row[name] or (), np.float32) for name in ("training", "samples", "untrained")))
        for word in words
        if (row := rows.get((word.concept, word.fingerprint))) and not math.isnan(word.reconstruction)
    ]
    groups: dict[str, list[ConceptSummary]] = {group: [] for group in GROUPS}
    for one in stood:
        groups[LEARNED].append(one.word)
        if len(one.untrained):
            groups[SAME_NOISE].append(_drawn(one, one.untrained, effect=0.0))
        if len(one.untrained) > 1:
            groups[OTHER_NOISE].append(_drawn(one, one.untrained[::2], one.untrained[1::2]))
        others = [each for each in stood if each is not one and len(each.samples)]
        groups[OTHERS] += [_drawn(one, each.samples) for each in others]
        if others:
            alike = max(others, key=lambda each: _cosine(each.training, one.training))
            groups[MOST_ALIKE].append(_drawn(one, alike.samples))
    return groups


def _drawn(one: Stood, pictures: Floats, floor: Floats | None = None, effect: float = math.nan) -> ConceptSummary:
    """The summary if its word had drawn these pictures. floor: features of the untrained word's pictures, if not all of them."""
    bottom = one.word.reconstruction_floor if floor is None else _alike(floor, one.training)
    value = _alike(pictures, one.training)
    return replace(
        one.word,
        reconstruction=value,
        reconstruction_floor=bottom,
        covered=covered(value, bottom, one.word.reconstruction_ceiling),
        diversity=mean(diversity(pictures)),
        effect=effect,
        fell=False,
    )


def _alike(pictures: Floats, training: Floats) -> float:
    return mean(image_similarity(pictures, training[None]))


def _cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
