"""How far the plain prompt's pictures are from those that the word drew before training from the same noise."""

from collections.abc import Iterator

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import Floats, effect, image_similarity, mean
from pipeline.protocols import Protocol
from pipeline.records import SampleKind


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """Yields nothing if no pictures were drawn from the same noise."""
    changes = _changes(encoded, encoded.plain_prompt)
    if len(changes):
        untrained = encoded.of("untrained", encoded.plain_prompt)
        away = 1 - mean(image_similarity(untrained, encoded.of("training")))
        yield Measurement(encoded.plain_prompt, changes, 0.0, away)


def expected(protocol: Protocol, reads_texts: bool) -> bool:
    return protocol.untrained_images > 0


def _changes(encoded: Encoded, prompt: str) -> Floats:
    """`effect` of the pairs of pictures of the prompt that began with the same noise."""

    def by_seed(kind: SampleKind) -> dict[int, int]:
        drawn = ((place, each) for place, each in enumerate(encoded.samples) if each.kind == kind)
        return {each.seed: place for place, each in drawn if each.prompt == prompt}

    learned, untrained = by_seed("reconstruction"), by_seed("untrained")
    shared = [seed for seed in learned if seed in untrained]
    return effect(
        encoded.features[[learned[seed] for seed in shared]], encoded.features[[untrained[seed] for seed in shared]]
    )


METRIC = Metric(
    name="effect",
    figure="effect",
    order=5,
    measure=measure,
    of_negative=True,
    expected=expected,
    columns=(Column("effect", "value"),),
    meaning="distance from the untrained word's pictures of the same noise; below 0.01 the word changes nothing",
    floor="0: a word that changes nothing",
    ceiling="distance of the untrained word's pictures from the training images",
    unit="1 - mean cosine",
)
