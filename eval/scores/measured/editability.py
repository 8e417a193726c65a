"""Text similarity of each edit prompt's pictures to the prompt without the word."""

import functools
from collections.abc import Iterator

from eval.judges.judge import ClipScorer
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import mean, text_similarity
from pipeline.protocols import Protocol


def measure(encoded: Encoded, texts: ClipScorer | None) -> Iterator[Measurement]:
    """Raises ValueError if a prompt has no text besides the word."""
    edits = encoded.edits
    for prompt, stated in edits.items():
        if not stated.strip():
            raise ValueError(
                f"{encoded.concept}: the prompt {prompt!r} has no text besides the word, so nothing can be scored"
            )
    if texts is None:
        return
    for prompt, text in zip(edits, texts.encode_texts(list(edits.values())), strict=True):
        values = text_similarity(encoded.of("edit", prompt), text)
        floor = mean(text_similarity(encoded.plain, text))
        ceiling = mean(text_similarity(encoded.of("untrained", prompt), text))
        yield Measurement(prompt, values, floor, ceiling, functools.partial(text_similarity, text=text))


def expected(protocol: Protocol, reads_texts: bool) -> bool:
    return reads_texts


METRIC = Metric(
    name="text_similarity",
    figure="editability",
    order=2,
    measure=measure,
    of_negative=True,
    expected=expected,
    columns=(
        Column("editability", "value", "editability"),
        Column("editability_floor", "floor", "floor"),
        Column("editability_ceiling", "ceiling", "ceiling"),
        Column("editability_covered", "covered"),
        Column("editability_floor_noun", "floor_noun"),
        Column("editability_floor_wordless", "floor_wordless"),
    ),
    headline=("editability", "editability_covered"),
    medians=("editability_covered",),
    meaning="similarity of an edit prompt's pictures to the prompt's text without the word",
    floor="the same text and the plain prompt's pictures, as if the edit had had no effect",
    ceiling="the same text and the same prompt's pictures with the untrained word",
    unit="mean cosine",
    title="Editability",
    about="""How well the pictures follow the rest of a prompt (“at night”, “a pencil sketch of”) while the word stands in it,
        as CLIP's similarity of picture and text. The <em>floor</em> is what the plain pictures reach, as if the rest had been
        ignored; the <em>ceiling</em> is what the model reaches with a meaningless word in the same place. Similarities of
        pictures and text are small by nature: 0.3 can be a perfect match.""",
    sorts=(("editability", -1, "highest editability"), ("editability", 1, "lowest editability")),
)
