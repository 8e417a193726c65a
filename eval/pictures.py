"""The pictures of every word that a protocol asks for: those of its training where they are the protocol's, else new ones.

embeddings/ -> words on the frozen model -> evaluations/<protocol>/samples/*.parquet
"""

import functools
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from pipeline.backbones import Backbone, PromptError, load_backbone
from pipeline.drawing import draw_concept
from pipeline.prompting import requests_for, serves
from pipeline.protocols import Protocol
from pipeline.publish import FEW, part_path, read_table, write_table
from pipeline.records import Concept, Failure, Sample
from pipeline.run_folder import RunFolder, shard_of
from pipeline.tables import sample_rows, samples_of

# A part is held in memory: as many pictures as sixteen concepts of a protocol like quick have.
PICTURES_A_PART = 700
WORD = ["concept", "fingerprint", "text_encoder", "placeholder", "vectors", "initializer", "class", "kind", "carried"]


@dataclass(frozen=True, slots=True)
class RunModel:
    """The frozen model that a run's words were learned on, and what else their pictures depend on.

    seed, resolution: as in the run's settings.
    """

    model: str
    device: str
    dtype: str
    seed: int
    resolution: int | None = None


@dataclass(frozen=True, slots=True)
class LearnedWord:
    """A row, or a row a text encoder, of `embeddings/`. vectors: text encoder -> float32 (V, D)."""

    concept: Concept
    fingerprint: str
    vectors: Mapping[str, np.ndarray]


def learned_words(run: RunFolder, number: int, parts: Mapping[str, int]) -> dict[str, LearnedWord]:
    """Concept -> its word, of one part of `embeddings/`."""
    return words_of(read_table(run, part_path("embeddings", number, parts["embeddings"]), WORD))


def words_of(embeddings: pa.Table | None) -> dict[str, LearnedWord]:
    """Concept -> its word, of rows of `embeddings/`."""
    words: dict[str, LearnedWord] = {}
    for row in [] if embeddings is None else embeddings.select(WORD).to_pylist():
        vectors = np.array(row["vectors"], np.float32)
        concept = Concept(
            row["concept"], (), row["placeholder"], row["initializer"] or None, row["class"], row["kind"], len(vectors),
            carried=dict(row["carried"] or ()),
        )  # fmt: skip
        known = words.setdefault(concept.name, LearnedWord(concept, row["fingerprint"], {}))
        words[concept.name] = replace(known, vectors={**known.vectors, row["text_encoder"]: vectors})
    return words


def draw_missing(
    run: RunFolder, names: Collection[str], parts: Mapping[str, int], protocol: Protocol, model: RunModel
) -> tuple[Failure, ...]:
    """Draws what of these concepts' pictures there is not yet; one Ray task a part. Returns what cannot be drawn."""
    by_part: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_part[shard_of(name, _parts(parts, protocol))].append(name)
    gpus = 1 if model.device == "cuda" else 0
    draw = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(draw_part)
    tasks = [draw.remote(run, number, some, parts, protocol, model) for number, some in sorted(by_part.items())]
    return tuple(failure for task in tasks for failure in ray.get(task))


def draw_part(
    run: RunFolder, number: int, names: Collection[str], parts: Mapping[str, int], protocol: Protocol, model: RunModel
) -> list[Failure]:
    """Brings one part of the protocol's samples up to date for the concepts named, all of which belong into it.

    The part is written again after every concept: what was drawn is not lost with a machine that is taken away.
    """
    words = {
        name: word for name, word in learned_words(run, number % parts["embeddings"], parts).items() if name in names
    }
    in_training = {name for name, _ in _served(run, number % parts["samples"], parts, words, protocol, model.seed, "")}
    path = part_path(_folder(protocol), number, _parts(parts, protocol))
    table = read_table(run, path)
    drawn = _rows_that_serve(table, words, protocol, model.seed)
    failures = []
    training = None
    for name in sorted(words.keys() - in_training - drawn.keys()):
        word = words[name]
        if training is None:
            training = read_table(run, part_path("samples", number % parts["samples"], parts["samples"]))
        try:
            torch.set_num_threads(1)
            backbone = _backbone(model.model, model.device, model.dtype)
            samples = draw_concept(backbone, word.concept, word.vectors, protocol, model.seed, model.resolution)
        except PromptError as error:
            failures.append(Failure(name, "sampling", str(error)))
            continue
        rows = [sample_rows(word.fingerprint, samples)]
        if training is not None:
            mine = pc.and_(pc.equal(training["concept"], name), pc.equal(training["kind"], "training"))
            rows.append(training.filter(mine))
        kept = [] if table is None else [table.filter(pc.not_equal(table["concept"], name))]
        table = pa.concat_tables([*kept, *rows], promote_options="default")
        write_table(run, path, table)
    return failures


def pictures_of(
    run: RunFolder,
    words: Mapping[str, LearnedWord],
    parts: Mapping[str, int],
    protocol: Protocol,
    seed: int | None,
) -> Iterator[tuple[LearnedWord, list[Sample]]]:
    """Each word that has them with its pictures, one part in memory at a time.

    seed: of the run, to tell by it which pictures are the protocol's; None takes those of `samples/` for granted.
    """
    left = dict(words)
    for folder in ("", _folder(protocol)):
        count = _parts(parts, protocol) if folder else parts["samples"]
        by_part: dict[int, dict[str, LearnedWord]] = defaultdict(dict)
        for name, word in left.items():
            by_part[shard_of(name, count)][name] = word
        for number, some in sorted(by_part.items()):
            for name, rows in _served(run, number, parts, some, protocol, seed, folder):
                yield left.pop(name), samples_of(rows)
        if seed is None:
            return


def _served(
    run: RunFolder, number: int, parts: Mapping[str, int], words: Mapping[str, LearnedWord], protocol: Protocol,
    seed: int | None, folder: str,
) -> list[tuple[str, pa.Table]]:  # fmt: skip
    count = _parts(parts, protocol) if folder else parts["samples"]
    table = read_table(run, part_path(folder or "samples", number, count))
    return list(_rows_that_serve(table, words, protocol, seed).items())


def _rows_that_serve(
    table: pa.Table | None, words: Mapping[str, LearnedWord], protocol: Protocol, seed: int | None
) -> dict[str, pa.Table]:
    """Concept -> its rows of the table, where they are of its present word and just what the protocol asks for."""
    found: dict[str, pa.Table] = {}
    if table is None:
        return found
    for name in pc.unique(table["concept"]).to_pylist():
        if name not in words:
            continue
        mine = table.filter(
            pc.and_(pc.equal(table["concept"], name), pc.equal(table["fingerprint"], words[name].fingerprint))
        )
        if len(mine) and (seed is None or _is_asked_for(mine, words[name].concept, protocol, seed)):
            found[name] = mine
    return found


def _is_asked_for(rows: pa.Table, concept: Concept, protocol: Protocol, seed: int) -> bool:
    columns = [rows[name].to_pylist() for name in ("kind", "prompt", "index", "seed")]
    try:
        return serves(zip(*columns, strict=True), requests_for(concept, protocol, seed))
    except PromptError:
        return False


def _folder(protocol: Protocol) -> str:
    return f"evaluations/{protocol.label}/samples"


def _parts(parts: Mapping[str, int], protocol: Protocol) -> int:
    """A multiple of the parts of `samples/`, so that each comes from one part of every table it is made of."""
    return parts["samples"] * min(FEW, math.ceil(FEW * protocol.pictures / PICTURES_A_PART))


@functools.lru_cache(maxsize=1)
def _backbone(model: str, device: str, dtype: str) -> Backbone:
    # Ray runs many tasks in one process; the frozen model is loaded by the first of them.
    return load_backbone(model, device, dtype)
