"""How far a negative word keeps the pictures from those that it was learned from."""

from collections.abc import Iterator

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import Floats, image_similarity, mean
from pipeline.protocols import Protocol


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """Of a negative word; yields nothing for any other."""
    if not encoded.avoids:
        return
    training = encoded.of("training")

    def away(pictures: Floats) -> Floats:
        return 1 - image_similarity(pictures, training)

    without = mean(away(encoded.of("untrained", encoded.plain_prompt)))
    yield Measurement(encoded.plain_prompt, away(encoded.plain), without, 1.0)


def expected(protocol: Protocol, reads_texts: bool) -> bool:
    return False


METRIC = Metric(
    name="avoidance",
    figure="avoidance",
    order=7,
    measure=measure,
    expected=expected,
    of_negative=True,
    columns=(Column("avoidance", "value"), Column("avoidance_floor", "floor")),
    meaning="of a negative word: how far the plain prompt's pictures are from the pictures to be avoided",
    floor="the same without the negative word",
    ceiling="1: nothing in common",
    unit="1 - mean cosine",
)
