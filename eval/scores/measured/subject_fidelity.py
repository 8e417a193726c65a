"""Image similarity of the edit prompts' pictures to the training images, as DreamBench scores CLIP-I and DINO."""

from collections.abc import Iterator

import numpy as np

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import Floats, image_similarity, mean, training_ceiling


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """One score over all edit prompts; none without edits."""
    training, edits = encoded.of("training"), encoded.edits
    if not edits:
        return

    def alike(pictures: Floats) -> Floats:
        return image_similarity(pictures, training)

    untrained = np.concatenate([alike(encoded.of("untrained", prompt)) for prompt in edits])
    yield Measurement("", alike(encoded.of("edit")), mean(untrained), training_ceiling(training), alike)


METRIC = Metric(
    name="subject_fidelity",
    figure="subject_fidelity",
    order=4,
    measure=measure,
    columns=(Column("subject_fidelity", "value"),),
    headline=("subject_fidelity",),
    meaning="image similarity of the edit prompts' pictures and the training images: DreamBench's CLIP-I, or its DINO",
    floor="the same for the edit prompts with the untrained word",
    ceiling="similarity of different training images to each other",
    unit="mean cosine",
)
