"""The share of pictures that are copies: nearer to a training image than any two training images are to each other."""

from collections.abc import Iterator

import numpy as np

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import SMALLEST_DISTANCE, Floats, interval, mean


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """Of the plain prompt's pictures; nan where there is a single training image, which has no other to be like."""
    training = encoded.of("training").astype(np.float64)
    between = training @ training.T - 2 * np.eye(len(training))
    limit = float(between.max()) + SMALLEST_DISTANCE if len(training) > 1 else np.nan

    def copied(pictures: Floats) -> Floats:
        if np.isnan(limit):
            return np.full(len(pictures), np.nan)
        copies: Floats = ((pictures.astype(np.float64) @ training.T).max(axis=1) > limit).astype(np.float64)
        return copies

    untrained = mean(copied(encoded.of("untrained", encoded.plain_prompt)))
    yield Measurement(encoded.plain_prompt, copied(encoded.plain), untrained, 1.0)


def share_interval(values: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Of a share, which ends at 0 and 1. values (N,), each 0 or 1."""
    low, high = np.clip(interval(values, rng), 0, 1).tolist()
    return low, high


METRIC = Metric(
    name="copies",
    figure="copies",
    order=6,
    measure=measure,
    interval=share_interval,
    columns=(Column("copies", "value", "copies", percent=True),),
    headline=("copies",),
    meaning="the share of the plain prompt's pictures that are nearer to a training image than any two training images are to "
    "each other; if training images are nearly identical, no picture counts as a copy",
    floor="the share among pictures of the untrained word",
    ceiling="1: every picture is a copy",
    unit="share",
    sorts=(("copies", -1, "most copies"),),
)
