"""The order of several pictures of one sentence: those first that show what it says and look like its words' own pictures."""

from collections.abc import Sequence

import numpy as np

from eval.judges.judge import ClipScorer, Features, Picture


def best_first(
    scorer: ClipScorer, pictures: Sequence[Picture], sentence: str, own: Sequence[Sequence[Picture]]
) -> list[int]:
    """The pictures' indices.

    sentence: without its learned words, which the judge does not know. own: of each word in the sentence, its training pictures.
    Each measure counts alike, whatever its spread: a picture's score is the sum of its standardised similarities to the
    sentence and to the mean features of each word's pictures.
    """
    features = scorer.encode_images(pictures)
    directions = [scorer.encode_texts([sentence])[0], *(_mean(scorer.encode_images(each)) for each in own if each)]
    scores = sum((_standardised(features @ direction) for direction in directions), np.zeros(len(pictures)))
    return [int(index) for index in np.argsort(-scores, kind="stable")]


def _mean(features: Features) -> Features:
    mean: Features = features.mean(axis=0)
    return mean


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))
