"""Restores words and grids that were deleted from a run folder from its tables; nothing is learned or drawn for this."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.models.families import Family
from pipeline.sampling.grid import draw_grid
from pipeline.store.model_spec import WordSpec
from pipeline.store.parts import part_path, read_rows, read_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.run_tables import SAMPLES, samples_of


def restore_public_files(
    run: RunFolder, done: Mapping[str, str], parts: Mapping[str, int], family: Family
) -> tuple[str, ...]:
    """Returns the paths that were missing or empty and have been restored.

    done: concept -> fingerprint. parts: table -> number of parts. family: of the model. A concept without
    rows in the tables is left to `publish`, after which it is learned again.
    """
    missing: dict[str, dict[str, str]] = defaultdict(
        dict
    )  # part of the embeddings -> path of a word or grid -> concept
    for folder, path_of in (("words", run.word_path), ("grids", run.grid_path)):
        there = {name for name, said in run.storage.identities(folder).items() if not (said or "").startswith("0-")}
        for name in done:
            if path_of(name).removeprefix(f"{folder}/") not in there:
                part = part_path("embeddings", shard_of(name, parts["embeddings"]), parts["embeddings"])
                missing[part][path_of(name)] = name
    restored = []
    for part, paths in sorted(missing.items()):
        table = read_table(run, part)
        rows = defaultdict(list)
        for row in [] if table is None else table.to_pylist():
            if done.get(row["concept"]) == row["fingerprint"]:
                rows[row["concept"]].append(row)
        words = {name for path, name in paths.items() if path == run.word_path(name)}
        made = {run.word_path(name): word_file(rows[name], family) for name in words}
        drawn = {name: rows[name] for path, name in paths.items() if path == run.grid_path(name)}
        for name, samples in samples_of_words(run, drawn, parts["samples"]):
            made[run.grid_path(name)] = grid_file(rows[name], samples)
        for path, data in sorted(made.items()):
            if data is not None:
                run.storage.write_bytes(path, data)
                restored.append(path)
    return tuple(restored)


def word_file(rows: Sequence[Mapping[str, Any]], family: Family) -> bytes | None:
    """rows: of EMBEDDINGS, one for each text encoder of one word; None without any."""
    if not rows:
        return None
    # It imports torch, which a run with nothing to restore does not need.
    from pipeline.store.word_files import encode_word

    first = rows[0]
    vectors = {str(row["text_encoder"]): np.array(row["vectors"], np.float32) for row in rows}
    spec = WordSpec(
        first["concept"], family.architecture_of(vectors), first["kind"], first.get("resolution"), first.get("learned"),
        dict(first.get("stated") or ()),
    )  # fmt: skip
    return encode_word(str(first["placeholder"]), vectors, family.word_keys, spec=spec)


def samples_of_words(
    run: RunFolder, words: Mapping[str, Sequence[Mapping[str, Any]]], parts: int
) -> Iterator[tuple[str, pa.Table]]:
    """Each word with its rows of `samples/`, in the order of its pictures. A part is read once.

    words: concept -> rows as word_file's. parts: of the table.
    """
    by_part: dict[str, list[str]] = defaultdict(list)
    for name in words:
        by_part[part_path("samples", shard_of(name, parts), parts)].append(name)
    for path, names in by_part.items():
        there = read_rows(run, path, SAMPLES)
        table = SAMPLES.empty_table() if there is None else there
        for name in names:
            yield name, _of_word(table, words[name])


def _of_word(table: pa.Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    if not rows:
        return SAMPLES.empty_table()
    concept, fingerprint = (pc.equal(table[column], rows[0][column]) for column in ("concept", "fingerprint"))
    own = table.filter(pc.and_(concept, fingerprint))
    # As the worker drew them: each picture's path ends in its place.
    places = [int(row["path"].rpartition("-")[2].removesuffix(".png")) for row in own["image"].to_pylist()]
    return own.take(sorted(range(len(places)), key=lambda at: places[at]))


def grid_file(rows: Sequence[Mapping[str, Any]], samples: pa.Table) -> bytes | None:
    """rows: as word_file's. samples: as samples_of_words'; None without any."""
    if not len(samples):
        return None
    first = rows[0]
    return draw_grid(f"{first['concept']}   {first['placeholder']}   {first['steps']} steps", samples_of(samples))
