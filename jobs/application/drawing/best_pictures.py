"""Of several candidates the pictures that are kept: generate.py --best-of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from eval.judges.best_of import best_first
from eval.judges.clip import load_clip
from pipeline.inputs.picture_file import decode_drawn
from pipeline.models.base import in_its_place
from pipeline.sampling.generation import Drawing, words_in
from pipeline.store.parts import part_path, read_layout, read_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.run_tables import samples_of

IS_TRAINING = pc.field("kind") == "training"
Choose = Callable[[str, Sequence[Drawing]], Sequence[Drawing]]


def chooser(
    run: RunFolder, words: Sequence[Mapping[str, Any]], judge: str, count: int, placeholders: Sequence[str]
) -> Choose:
    """From a prompt and its candidates to the best `count`, the best first.

    words: the run's rows of the table of embeddings. judge: a name for load_clip. placeholders: of all words that prompts may
    hold. Words that are not the run's own, such as blends, are judged by the rest of the sentence alone.
    Raises ValueError and FileNotFoundError for a judge that does not load.
    """
    scorer, parts = load_clip(judge), read_layout(run)["samples"]
    rows = {row["placeholder"]: row for row in words}
    own: dict[str, list[Any]] = {}

    def pictures_of(word: str) -> list[Any]:
        if word not in own:
            row = rows[word]
            table = read_table(run, part_path("samples", shard_of(row["concept"], parts), parts))
            samples = (
                [] if table is None else samples_of(table.filter(IS_TRAINING & (pc.field("concept") == row["concept"])))
            )
            own[word] = [decode_drawn(each.png) for each in samples]
        return own[word]

    def choose(prompt: str, drawn: Sequence[Drawing]) -> Sequence[Drawing]:
        there = words_in(prompt, placeholders)
        sentence = prompt
        for word in there:
            row = rows.get(word, {})
            noun = row.get("class") or row.get("initializer") or ""
            sentence = in_its_place(sentence, word, noun)
        order = best_first(
            scorer,
            [each.pixels for each in drawn],
            " ".join(sentence.split()),
            [pictures_of(word) for word in there if word in rows],
        )
        return [drawn[index] for index in order[:count]]

    return choose
