"""Decides with a judge of pictures whether each of two concepts is in a picture; `pair_run.py` uses it.

A word counts as present if the picture's similarity to its training images is above a threshold: halfway between that of pictures
of the same sentence and noise without the word, and that of pictures with this word alone. The similarity is the highest of five
views, the whole picture and its four halves, because two objects side by side share the whole and the judge sees less of each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eval.judges.judge import ImageScorer
from eval.pairs.meeting import Meeting
from eval.pairs.pair_pictures import HELD, Held
from eval.scores.metrics import SMALLEST_DISTANCE, Floats, mean

VIEWS = 5


@dataclass(frozen=True, slots=True)
class PairScore:
    """One prompt with two words.

    n: pictures with both words. presence_a, presence_b: their mean similarity to each word's training images (the highest of
    five views). alone_...: that of pictures with this word alone, the ceiling. floor_...: of pictures with the other word alone.
    noun_...: of pictures with two class nouns instead.
    both, only_a, only_b: shares of the pictures in which both words, or only one, are present; nan if a word is not recognised
    even alone. both_alone, both_nouns: the share as in `both` for pictures with one word and with none, which shows how often the
    rule is wrong. told_apart: the share of pictures with one word that are nearer to its own training images than to the other's,
    which shows how well the judge distinguishes the two.
    """

    concept: str
    partner: str
    template: str
    n: int
    presence_a: float
    alone_a: float
    floor_a: float
    noun_a: float
    presence_b: float
    alone_b: float
    floor_b: float
    noun_b: float
    both: float
    only_a: float
    only_b: float
    both_alone: float
    both_nouns: float
    told_apart: float


def view_similarities(pictures: Sequence[Image.Image], training: Floats, scorer: ImageScorer) -> Floats:
    """The highest similarity of any view to each of K concepts. training: their mean features (K, D) -> (N, K)."""
    if not pictures:
        return np.empty((0, len(training)))
    features = scorer.encode_images([view for picture in pictures for view in _views(picture)])
    similar: Floats = features.astype(np.float64) @ training.astype(np.float64).T
    highest: Floats = similar.reshape(len(pictures), VIEWS, len(training)).max(axis=1)
    return highest


def pair_score(meeting: Meeting, similarities: Mapping[Held, Floats]) -> PairScore:
    """similarities: words held -> (N, 2), the similarities to the training images of a and b."""
    both, a, b, neither = (similarities[held] for held in HELD)
    halfway, seen = [], True
    for place, (own, other) in enumerate(((a, b), (b, a))):
        ceiling, floor = mean(own[:, place]), mean(other[:, place])
        seen &= ceiling - floor > SMALLEST_DISTANCE
        halfway.append((ceiling + floor) / 2)

    def present(values: Floats) -> npt.NDArray[np.bool_]:
        return values > np.array(halfway)

    def share(hits: Any) -> float:
        return float(hits.mean()) if seen and len(hits) else math.nan

    here, alone = present(both), present(np.concatenate([a, b]))
    nearer = np.concatenate([a[:, 0] > a[:, 1], b[:, 1] > b[:, 0]])
    return PairScore(
        meeting.a, meeting.b, meeting.template, len(both),
        mean(both[:, 0]), mean(a[:, 0]), mean(b[:, 0]), mean(neither[:, 0]),
        mean(both[:, 1]), mean(b[:, 1]), mean(a[:, 1]), mean(neither[:, 1]),
        share(here.all(axis=1)), share(here[:, 0] > here[:, 1]), share(here[:, 1] > here[:, 0]),
        share(alone.all(axis=1)), share(present(neither).all(axis=1)),
        float(nearer.mean()) if len(nearer) else math.nan,
    )  # fmt: skip


def _views(picture: Image.Image) -> list[Image.Image]:
    width, height = picture.size
    boxes = (
        (0, 0, width, height), (0, 0, width // 2, height), (width // 2, 0, width, height),
        (0, 0, width, height // 2), (0, height // 2, width, height),
    )  # fmt: skip
    return [picture.crop(box) for box in boxes]
