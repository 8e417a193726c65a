"""How far the plain prompt's pictures are from each other."""

from collections.abc import Iterator

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import diversity, diversity_interval, mean


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """A word that has learned little can be above the ceiling."""
    ceiling = mean(diversity(encoded.of("training")))
    yield Measurement(encoded.plain_prompt, diversity(encoded.plain), 0.0, ceiling, diversity)


METRIC = Metric(
    name="diversity",
    figure="diversity",
    order=3,
    measure=measure,
    of_negative=True,
    interval=diversity_interval,
    columns=(Column("diversity", "value", "diversity"), Column("diversity_ceiling", "ceiling")),
    headline=("diversity",),
    meaning="how far the pictures of the plain prompt are from each other; near 0 for a collapsed word",
    floor="0: always the same picture",
    ceiling="how far the training images are from each other",
    unit="1 - mean cosine",
    title="Diversity",
    floor_label="collapsed",
    ceiling_label="training pictures",
    floor_value=0.0,
    about="""How far apart CLIP finds the pictures that one prompt draws from different noise. A word that has collapsed
        to one picture is near 0, however well it scores above.""",
    sorts=(("diversity", 1, "least diverse"),),
)
