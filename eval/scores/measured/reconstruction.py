"""Image similarity of the plain prompt's pictures to the training images."""

from collections.abc import Iterator

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import Floats, image_similarity, mean, training_ceiling


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    training = encoded.of("training")

    def alike(pictures: Floats) -> Floats:
        return image_similarity(pictures, training)

    floor = mean(alike(encoded.of("untrained", encoded.plain_prompt)))
    yield Measurement(encoded.plain_prompt, alike(encoded.plain), floor, training_ceiling(training), alike)


METRIC = Metric(
    name="image_similarity",
    figure="reconstruction",
    order=1,
    measure=measure,
    columns=(
        Column("covered", "covered", "covered", percent=True),
        Column("reconstruction", "value", "reconstruction"),
        Column("reconstruction_low", "low"),
        Column("reconstruction_high", "high"),
        Column("reconstruction_floor", "floor", "floor"),
        Column("reconstruction_ceiling", "ceiling", "ceiling"),
        Column("reconstruction_floor_noun", "floor_noun"),
        Column("reconstruction_floor_wordless", "floor_wordless"),
    ),
    headline=("covered", "reconstruction"),
    medians=("covered",),
    meaning="CLIP similarity of the plain prompt's pictures and the training images",
    floor="the same for the plain prompt with the untrained word",
    ceiling="similarity of different training images to each other; none for a single image",
    unit="mean cosine",
    title="Reconstruction",
    about="""How similar the pictures drawn with a word are to the pictures it was learned from, by CLIP; 1 would be the same
        picture. The number means nothing alone. The <em>floor</em> is the similarity before training; the <em>ceiling</em> is the
        similarity of the training pictures to each other, which is below 1 because they differ. A word at its ceiling is as close
        to the training pictures as they are to each other.""",
    sorts=(
        ("covered", -1, "best covered first"),
        ("covered", 1, "worst covered first"),
        ("reconstruction", -1, "highest reconstruction"),
    ),
)
