"""Image similarity of the plain prompt's pictures to the training images, both without their background."""

from collections.abc import Iterator

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import image_similarity, mean, training_ceiling
from pipeline.protocols import Protocol


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """Yields nothing if the judge has no features of patches."""
    if encoded.without_background is not None:
        training, prompt = encoded.alone("training"), encoded.plain_prompt
        values = image_similarity(encoded.alone("reconstruction"), training)
        floor = mean(image_similarity(encoded.alone("untrained", prompt), training))
        yield Measurement(prompt, values, floor, training_ceiling(training))


def expected(protocol: Protocol, reads_texts: bool) -> bool:
    return False


METRIC = Metric(
    name="masked_image_similarity",
    figure="masked_reconstruction",
    order=9,
    measure=measure,
    expected=expected,
    columns=(
        Column("masked_reconstruction", "value"),
        Column("masked_reconstruction_floor", "floor"),
        Column("masked_reconstruction_ceiling", "ceiling"),
    ),
    headline=("masked_reconstruction",),
    meaning="image similarity with every background made white: by the concept's masks where its training images have them, by the "
    "judge's own patches for all other pictures; of judges with patches (a ViT of open_clip, DINOv2, DINOv3)",
    floor="the same for the plain prompt with the untrained word",
    ceiling="similarity of different training images to each other, without their background",
    unit="mean cosine",
)
