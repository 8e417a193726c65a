"""Confusion between concepts: are a word's pictures nearest to its own training images?

The pictures of a word that has learned its concept are nearer to its own training images than to any other concept's. A mean
cosine does not show that all words draw the same thing; this does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eval.scores.metrics import Floats
from pipeline.store.run_tables import KEY

# Every picture is compared with all of these concepts.
MOST_COMPARED = 512
LISTED = 10
LOOK_ALIKES = 9  # other concepts that a picture is ranked against

FEATURES = pa.schema([
    *KEY, ("protocol", pa.string()), ("clip", pa.string()), ("clip_digest", pa.string()),
    ("training", pa.list_(pa.float32())), ("samples", pa.list_(pa.list_(pa.float32()))),
    ("pictures", pa.list_(pa.list_(pa.float32()))), ("untrained", pa.list_(pa.list_(pa.float32()))),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a scored concept, kept to compare it with others.

    training (D,): the mean feature of its training images. Its dot product with a picture is their mean cosine.
    samples (N, D): the features of its pictures of the plain prompt, rows of length one.
    pictures (M, D): those of its training images; empty in tables that were written before they were kept.
    """

    training: Floats
    samples: Floats
    pictures: Floats = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def real(self) -> Floats:
        """Its training images; their mean where they were not kept."""
        return self.pictures if len(self.pictures) else self.training[None]


@dataclass(frozen=True, slots=True)
class Mistaken:
    """share: the share of the pictures of `concept` that are nearest to the training images of `taken_for`."""

    concept: str
    taken_for: str
    share: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """concepts: how many were compared. chance: the share expected from guessing, 1 / concepts.

    nearest_own: the share of pictures nearest to their own concept's training images, a mean over concepts. by_concept:
    the share of each. own, other: mean image similarity to the own training images, and to other concepts'.
    mistaken: the most frequent mistakes.
    precision, precision_by_chance: see `retrieval`.
    """

    concepts: int
    nearest_own: float
    chance: float
    own: float
    other: float
    mistaken: tuple[Mistaken, ...]
    by_concept: Mapping[str, float]
    precision: float = math.nan
    precision_by_chance: float = math.nan


def confusion_over(features: Mapping[str, Features]) -> Confusion | None:
    """None for fewer than two concepts. Of more than 512, 512 evenly spaced ones are compared."""
    candidates = sorted(name for name, kept in features.items() if len(kept.samples))
    count = min(len(candidates), MOST_COMPARED)
    names = [candidates[position * len(candidates) // count] for position in range(count)]
    if len(names) < 2:
        return None
    training = np.stack([features[name].training for name in names])
    similarities = [features[name].samples @ training.T for name in names]
    nearest = np.stack([np.bincount(each.argmax(axis=1), minlength=len(names)) / len(each) for each in similarities])
    mean = np.stack([each.mean(axis=0) for each in similarities])
    right = np.diag(nearest)
    precision, by_chance = retrieval([features[name] for name in names])
    return Confusion(
        concepts=len(names),
        nearest_own=float(right.mean()),
        chance=1 / len(names),
        own=float(np.diag(mean).mean()),
        other=float((mean.sum() - np.trace(mean)) / (len(names) * (len(names) - 1))),
        mistaken=_most_mistaken(names, nearest),
        by_concept=dict(zip(names, right.tolist(), strict=True)),
        precision=precision,
        precision_by_chance=by_chance,
    )


def retrieval(concepts: Sequence[Features]) -> tuple[float, float]:
    """How high each picture ranks its own concept's images among similar ones: mean average precision, and the same by chance.

    After Kilrain et al. 2025 ("Finer-Personalization Rank", arXiv 2512.19026): a picture is a query against real images of similar
    things, whose identity is known. Here these are the training images of its own concept and of the nine concepts with the most
    similar ones. Both figures are means over concepts. Equal similarities count against the picture.
    """
    unit = np.stack([each.training / np.linalg.norm(each.training) for each in concepts])
    alike, precisions, chances = unit @ unit.T, [], []
    for own, each in enumerate(concepts):
        others = [place for place in np.argsort(-alike[own], kind="stable") if place != own][:LOOK_ALIKES]
        real = [concepts[place].real for place in (own, *others)]
        mine = np.repeat(np.arange(len(real)) == 0, [len(some) for some in real])
        similar = each.samples @ np.concatenate(real).T
        hits = mine[np.lexsort((np.broadcast_to(mine, similar.shape), -similar))]
        precision = np.cumsum(hits, axis=1) / np.arange(1, len(mine) + 1)
        precisions.append(float((precision * hits).sum(axis=1).mean() / mine.sum()))
        chances.append(_by_chance(int(mine.sum()), len(mine)))
    return float(np.mean(precisions)), float(np.mean(chances))


def _by_chance(mine: int, count: int) -> float:
    """The expected average precision of a random order of `count` images, `mine` of which are the right ones.

    >>> round(_by_chance(1, 2), 3), _by_chance(3, 3)
    (0.75, 1.0)
    """
    harmonic = sum(1 / rank for rank in range(1, count + 1))
    return ((mine - 1) / max(1, count - 1) * (count - harmonic) + harmonic) / count


def features_of(table: pa.Table) -> dict[str, Features]:
    """FEATURES' rows as records, by concept."""
    return {
        row["concept"]: Features(
            np.array(row["training"], np.float32),
            np.array(row["samples"], np.float32),
            np.array(row["pictures"] or np.empty((0, 0)), np.float32),
        )
        for row in table.to_pylist()
    }


def _most_mistaken(names: Sequence[str], nearest: npt.NDArray[np.float64]) -> tuple[Mistaken, ...]:
    wrong = nearest - np.diag(np.diag(nearest))
    mistaken = [
        Mistaken(names[row], names[column], float(wrong[row, column])) for row, column in np.argwhere(wrong).tolist()
    ]
    return tuple(sorted(mistaken, key=lambda each: (-each.share, each.concept, each.taken_for))[:LISTED])
