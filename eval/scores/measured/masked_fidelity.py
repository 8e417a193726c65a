"""Image similarity of the edit prompts' pictures to the training images, both without their background."""

from collections.abc import Iterator

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import image_similarity, mean, training_ceiling
from pipeline.protocols import Protocol


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """One score for each edit prompt; nothing if the judge has no features of patches."""
    if encoded.without_background is not None:
        training = encoded.alone("training")
        for prompt in encoded.edits:
            values = image_similarity(encoded.alone("edit", prompt), training)
            floor = mean(image_similarity(encoded.alone("untrained", prompt), training))
            yield Measurement(prompt, values, floor, training_ceiling(training))


def expected(protocol: Protocol, reads_texts: bool) -> bool:
    return False


METRIC = Metric(
    name="masked_subject_fidelity",
    figure="masked_fidelity",
    order=10,
    measure=measure,
    expected=expected,
    columns=(
        Column("masked_fidelity", "value"),
        Column("masked_fidelity_floor", "floor"),
        Column("masked_fidelity_ceiling", "ceiling"),
    ),
    headline=("masked_fidelity",),
    meaning="masked reconstruction of each edit prompt's pictures: the concept in a new scene, without the scene",
    floor="the same for the same prompt with the untrained word",
    ceiling="similarity of different training images to each other, without their background",
    unit="mean cosine",
)
