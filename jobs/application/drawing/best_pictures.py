"""Of several candidates the pictures that are kept: generate.py --best-of."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.compute as pc

from eval.judges.best_of import best_first
from eval.judges.clip import load_clip
from pipeline.inputs.picture_file import decode_drawn
from pipeline.models.base import placeholder_pattern
from pipeline.sampling.generation import Drawing, words_in
from pipeline.store.parts import part_path, read_layout, read_parts, read_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.run_tables import EMBEDDINGS, samples_of

IS_TRAINING = pc.field("kind") == "training"
NEEDED = ["concept", "fingerprint", "placeholder", "class", "initializer"]
Choose = Callable[[str, Sequence[Drawing]], Sequence[Drawing]]


def chooser(run: RunFolder, judge: str, count: int) -> Choose:
    """From a prompt and its candidates to the best `count`, the best first.

    judge: a name for load_clip. Words that are not the run's own are judged by the rest of the sentence alone.
    Raises ValueError and FileNotFoundError for a judge that does not load.
    """
    scorer, parts = load_clip(judge), read_layout(run)
    table = read_parts(run, "embeddings", parts["embeddings"], EMBEDDINGS).select(NEEDED)
    rows = {row["placeholder"]: row for row in table.to_pylist()}
    own: dict[str, list[Any]] = {}

    def pictures_of(word: str) -> list[Any]:
        if word not in own:
            row = rows[word]
            found = read_table(run, part_path("samples", shard_of(row["concept"], parts["samples"]), parts["samples"]))
            samples = (
                [] if found is None else samples_of(found.filter(IS_TRAINING & (pc.field("concept") == row["concept"])))
            )
            own[word] = [decode_drawn(each.png) for each in samples]
        return own[word]

    def choose(prompt: str, drawn: Sequence[Drawing]) -> Sequence[Drawing]:
        words = words_in(prompt, list(rows))
        sentence = prompt
        for word in words:
            noun = rows[word]["class"] or rows[word]["initializer"] or ""
            sentence = placeholder_pattern([word]).sub(noun, sentence)
        order = best_first(
            scorer, [each.pixels for each in drawn], " ".join(sentence.split()), [pictures_of(word) for word in words]
        )
        return [drawn[index] for index in order[:count]]

    return choose
