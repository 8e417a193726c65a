"""Draws the pictures that a protocol asks for and a run does not have yet.

embeddings/ -> words on the frozen model -> evaluations/<protocol>/samples/*.parquet

A picture is drawn once and identified by (kind, prompt, index, seed). A protocol that asks for more pictures, a round of sequential
sampling and a resumed evaluation draw only the missing ones.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from eval.judges.judge import ImageScorer
from eval.scores.stopping import Watch
from pipeline.models.base import Backbone, PromptError
from pipeline.models.load import cached_backbone
from pipeline.protocols import Protocol
from pipeline.records import Concept, Failure, Sample
from pipeline.sampling.picture_pool import Wanted
from pipeline.sampling.pictures_of_a_word import draw_pictures, wanted_of
from pipeline.sampling.prompting import missing, requests_for
from pipeline.settings import ModelSettings
from pipeline.store.parts import FEW, part_path, read_table, write_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.run_tables import SAMPLES, sample_rows, samples_of

# A part is held in memory, so it has about as many pictures as sixteen concepts under the protocol quick.
PICTURES_A_PART = 700
# Pictures drawn between two writes: the most that a lost machine costs.
PICTURES_A_WRITE = 128
WORD = ["concept", "fingerprint", "text_encoder", "placeholder", "vectors", "initializer", "class", "kind", "carried"]
KEYS = ["concept", "fingerprint", "kind", "prompt", "index", "seed"]

Judge = Callable[[], ImageScorer]


@dataclass(frozen=True, slots=True)
class RunModel:
    """The frozen model that a run's words were learned on, and the settings that their pictures depend on.

    seed, resolution: as in the run's settings. options: fsspec options, for a model at a URL.
    """

    model: str
    device: str
    settings: ModelSettings
    seed: int
    resolution: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class LearnedWord:
    """One word, from its rows in `embeddings/`, one per text encoder. vectors: text encoder -> float32 (V, D)."""

    concept: Concept
    fingerprint: str
    vectors: Mapping[str, np.ndarray]


def learned_words(run: RunFolder, number: int, parts: Mapping[str, int]) -> dict[str, LearnedWord]:
    """Concept -> its word, for one part of `embeddings/`."""
    return words_of(read_table(run, part_path("embeddings", number, parts["embeddings"]), WORD))


def words_of(embeddings: pa.Table | None) -> dict[str, LearnedWord]:
    """Concept -> its word, from rows of `embeddings/`."""
    words: dict[str, LearnedWord] = {}
    for row in [] if embeddings is None else embeddings.select(WORD).to_pylist():
        vectors = np.array(row["vectors"], np.float32)
        concept = Concept(
            name=row["concept"], images=(), placeholder=row["placeholder"], initializer=row["initializer"] or None,
            noun=row["class"], kind=row["kind"], vectors=len(vectors), carried=dict(row["carried"] or ()),
        )  # fmt: skip
        known = words.setdefault(concept.name, LearnedWord(concept, row["fingerprint"], {}))
        words[concept.name] = replace(known, vectors={**known.vectors, row["text_encoder"]: vectors})
    return words


def draw_missing(
    run: RunFolder,
    names: Collection[str],
    parts: Mapping[str, int],
    protocol: Protocol,
    model: RunModel,
    judge: Judge | None = None,
    step: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Failure, ...]:
    """Draws the missing pictures of these concepts, one Ray task per part. Returns the concepts that cannot be drawn.

    judge: scores the pictures under a protocol with `until_ci`, which stops when they are enough. step: called with the number of
    concepts that are drawn, and of all.
    """
    by_part: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_part[shard_of(name, parts_of_samples(parts, protocol))].append(name)
    gpus = 1 if model.device == "cuda" else 0
    # Ray's type annotations cover at most six arguments.
    draw: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(draw_part)
    tasks = [
        (len(some), draw.remote(run, number, some, parts, protocol, model, judge))
        for number, some in sorted(by_part.items())
    ]
    failures: list[Failure] = []
    drawn = 0
    for count, task in tasks:
        failures += ray.get(task)
        drawn += count
        step(drawn, len(names))
    return tuple(failures)


def draw_part(
    run: RunFolder,
    number: int,
    names: Collection[str],
    parts: Mapping[str, int],
    protocol: Protocol,
    model: RunModel,
    judge: Judge | None = None,
) -> list[Failure]:
    """Draws the missing pictures in one part of the protocol's samples. names: concepts that belong to this part.

    Batches mix words, prompts and seeds. Pictures are written as they are drawn, so that a lost machine costs few of them.
    """
    all_words = learned_words(run, number % parts["embeddings"], parts)
    words = {name: all_words[name] for name in sorted(all_words.keys() & set(names))}
    path = part_path(_folder(protocol), number, parts_of_samples(parts, protocol))
    table = _of_present_words(read_table(run, path), all_words)
    watch = Watch(protocol, judge()) if judge and protocol.until_ci else None
    # Sequential sampling needs the existing pictures themselves; otherwise their keys are enough.
    training = read_table(
        run, part_path("samples", number % parts["samples"], parts["samples"]), None if watch else KEYS
    )
    there = _by_concept([table if watch else table.select(KEYS), training], words)
    left, failures = _to_draw(words, there, protocol, model)
    if watch:
        for name in left:
            served = _served(there[name], words[name], protocol, model.seed) if name in there else None
            watch.add([] if served is None else samples_of(served))
    while due := [each for some in left.values() for each in (watch.due(some) if watch else some)]:
        for start in range(0, len(due), PICTURES_A_WRITE):
            some = due[start : start + PICTURES_A_WRITE]
            drawn = draw_pictures(loaded(model), some, protocol, model.resolution)
            rows = [sample_rows(words[each.concept].fingerprint, [each]) for each in drawn]
            table = pa.concat_tables([table, *rows])
            write_table(run, path, table.sort_by([(key, "ascending") for key in KEYS]))
            if watch:
                watch.add(drawn)
        taken = {id(each) for each in due}
        left = {name: [each for each in some if id(each) not in taken] for name, some in left.items()}
    return failures


def undrawn(
    run: RunFolder, number: int, names: Collection[str], parts: Mapping[str, int], protocol: Protocol, seed: int
) -> tuple[list[Concept], list[Concept]]:
    """(these concepts, those of them without all of their pictures), of one part of the protocol's samples."""
    all_words = learned_words(run, number % parts["embeddings"], parts)
    words = {name: all_words[name] for name in sorted(all_words.keys() & set(names))}
    paths = (
        part_path(_folder(protocol), number, parts_of_samples(parts, protocol)),
        part_path("samples", number % parts["samples"], parts["samples"]),
    )
    there = _by_concept([read_table(run, path, KEYS) for path in paths], words)
    concepts = [word.concept for word in words.values()]
    return concepts, [each for each in concepts if _lacks(each, _keys(there.get(each.name)), protocol, seed)]


def _lacks(concept: Concept, keys: list[tuple[str, str, int, int]], protocol: Protocol, seed: int) -> bool:
    try:
        return bool(missing(keys, requests_for(concept, protocol, seed)))
    except PromptError:  # it will not be drawn
        return False


def _to_draw(
    words: Mapping[str, LearnedWord], there: Mapping[str, pa.Table], protocol: Protocol, model: RunModel
) -> tuple[dict[str, list[Wanted]], list[Failure]]:
    """Concept -> its missing pictures, if there are any; and failures of concepts whose prompts the model cannot read."""
    left: dict[str, list[Wanted]] = {}
    failures = []
    for name, word in words.items():
        try:
            requests = missing(_keys(there.get(name)), requests_for(word.concept, protocol, model.seed))
            if requests:
                torch.set_num_threads(1)
                backbone = loaded(model)
                left[name] = wanted_of(backbone, word.concept, word.vectors, requests)
        except PromptError as error:
            failures.append(Failure(name, "sampling", str(error)))
    return left, failures


def pictures_of(
    run: RunFolder,
    words: Mapping[str, LearnedWord],
    parts: Mapping[str, int],
    protocol: Protocol,
    seed: int | None,
) -> Iterator[tuple[LearnedWord, list[Sample]]]:
    """Yields each word with its pictures and training images; words with missing pictures are left out. One part is in memory
    at a time.

    seed: of the run, which identifies the protocol's pictures; None takes all pictures in `samples/`. Under a protocol with
    `until_ci`, the existing pictures are enough.
    """
    by_part: dict[int, dict[str, LearnedWord]] = defaultdict(dict)
    for name, word in sorted(words.items()):
        by_part[shard_of(name, parts_of_samples(parts, protocol))][name] = word
    training: tuple[int, pa.Table | None] = (-1, None)
    for number, some in sorted(by_part.items(), key=lambda item: (item[0] % parts["samples"], item[0])):
        own = number % parts["samples"]
        if training[0] != own:
            training = own, read_table(run, part_path("samples", own, parts["samples"]))
        drawn = (
            None
            if seed is None
            else read_table(run, part_path(_folder(protocol), number, parts_of_samples(parts, protocol)))
        )
        there = _by_concept([training[1], drawn], some)
        for name, table in there.items():
            if seed is None:
                yield some[name], samples_of(table)
            elif (served := _served(table, some[name], protocol, seed)) is not None:
                yield some[name], samples_of(served)


def _served(rows: pa.Table, word: LearnedWord, protocol: Protocol, seed: int) -> pa.Table | None:
    """The pictures that the protocol asks for, and the training images; None if some are missing."""
    try:
        requests = requests_for(word.concept, protocol, seed)
    except PromptError:
        return None
    keys = _keys(rows)
    if missing(keys, requests) and not protocol.until_ci:
        return None
    asked = {(each.kind, each.prompt, each.index, each.seed) for each in requests}
    first = {key: position for position, key in reversed(list(enumerate(keys)))}
    return rows.take(sorted(place for key, place in first.items() if key in asked or key[0] == "training"))


def _by_concept(tables: list[pa.Table | None], words: Mapping[str, LearnedWord]) -> dict[str, pa.Table]:
    """Concept -> the rows of its present word."""
    tables_of: dict[str, list[pa.Table]] = {}
    for table in tables:
        if table is None:
            continue
        for name in pc.unique(table["concept"]).to_pylist():
            if name in words:
                fingerprint = words[name].fingerprint
                mine = pc.and_(pc.equal(table["concept"], name), pc.equal(table["fingerprint"], fingerprint))
                tables_of.setdefault(name, []).append(table.filter(mine))
    together = {name: pa.concat_tables(some, promote_options="default") for name, some in tables_of.items()}
    return {name: rows for name, rows in together.items() if len(rows)}


def _of_present_words(table: pa.Table | None, words: Mapping[str, LearnedWord]) -> pa.Table:
    """The table without rows of older versions of these words; rows of other concepts are kept."""
    if table is None:
        return SAMPLES.empty_table()
    pairs = zip(table["concept"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)
    kept = [name not in words or words[name].fingerprint == fingerprint for name, fingerprint in pairs]
    return table.filter(pa.array(kept, pa.bool_())).cast(SAMPLES)


def _keys(rows: pa.Table | None) -> list[tuple[str, str, int, int]]:
    if rows is None:
        return []
    return list(zip(*(rows[name].to_pylist() for name in KEYS[2:]), strict=True))


def _folder(protocol: Protocol) -> str:
    return f"evaluations/{protocol.base_label}/samples"


def parts_of_samples(parts: Mapping[str, int], protocol: Protocol) -> int:
    """A multiple of the number of parts of `samples/`, so that each part is made from a single part of every other table."""
    return parts["samples"] * min(FEW, math.ceil(FEW * protocol.pictures / PICTURES_A_PART))


def loaded(model: RunModel) -> Backbone:
    return cached_backbone(model.model, model.device, model.settings, model.options)
