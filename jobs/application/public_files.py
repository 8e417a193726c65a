"""Restores words and grids that were deleted from a run folder from its tables; nothing is learned or drawn for this."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

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
        for path, name in sorted(paths.items()):
            if path == run.word_path(name):
                made = word_file(rows[name], family)
            else:
                made = grid_file(rows[name], samples_of_word(run, rows[name], parts["samples"]))
            if made is not None:
                run.storage.write_bytes(path, made)
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


def samples_of_word(run: RunFolder, rows: Sequence[Mapping[str, Any]], parts: int) -> pa.Table:
    """Its rows of `samples/`, in the order of its pictures. rows: as word_file's. parts: of the table."""
    if not rows:
        return SAMPLES.empty_table()
    name, fingerprint = str(rows[0]["concept"]), rows[0]["fingerprint"]
    table = read_rows(run, part_path("samples", shard_of(name, parts), parts), SAMPLES)
    if table is None:
        return SAMPLES.empty_table()
    own = table.filter([pair == (name, fingerprint) for pair in
                        zip(table["concept"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)])  # fmt: skip
    # As the worker drew them: each picture's path ends in its place.
    places = [int(row["path"].rpartition("-")[2].removesuffix(".png")) for row in own["image"].to_pylist()]
    return own.take(sorted(range(len(places)), key=lambda at: places[at]))


def grid_file(rows: Sequence[Mapping[str, Any]], samples: pa.Table) -> bytes | None:
    """rows: as word_file's. samples: as samples_of_word's; None without any."""
    if not len(samples):
        return None
    first = rows[0]
    return draw_grid(f"{first['concept']}   {first['placeholder']}   {first['steps']} steps", samples_of(samples))
