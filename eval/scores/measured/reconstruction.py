"""Image similarity of the plain prompt's pictures to the training images."""

from collections.abc import Iterator

from eval.judges.clip import ClipScorer
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
    meaning="how alike the CLIP finds the pictures of the plain prompt and the training images",
    floor="the plain prompt with the word as it was before training",
    ceiling="the training images among themselves, without self-pairs; none for a single image",
    unit="mean cosine",
    title="Reconstruction",
    about="""How alike CLIP finds the pictures drawn from a word and the pictures it was learned from: 1 would be the same
        picture. The number means nothing alone. The <em>floor</em> is what the word drew before it had learned anything; the
        <em>ceiling</em> is how alike the training pictures are among themselves, and different pictures of one thing are
        never the same. A word at its ceiling is as close to the training pictures as they are to each other.""",
    sorts=(
        ("covered", -1, "best covered first"),
        ("covered", 1, "worst covered first"),
        ("reconstruction", -1, "highest reconstruction"),
    ),
)
