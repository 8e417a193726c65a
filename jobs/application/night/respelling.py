"""Words whose rows give another placeholder: the same vectors and pictures under the new name, without learning.

Each is written like a word that was just learned, its marker last, and published with the others.
"""

import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.application.public_files import grid_file, samples_of_words, word_file
from pipeline.models.families import Family
from pipeline.records import Concept
from pipeline.scheduling.planning import Plan
from pipeline.store.parquet.parquet_tables import data_of
from pipeline.store.parts import part_path, read_rows
from pipeline.store.run_folder import Marker, RunFolder, shard_of
from pipeline.store.run_tables import EMBEDDINGS


def respell(
    run: RunFolder,
    concepts: Mapping[str, Concept],
    planned: Plan,
    parts: Mapping[str, int],
    family: Family,
    step: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, tuple[str, str]]:
    """concepts: name -> its row. step: called with the number of words that are written, and of all.

    Returns concept -> (placeholder before, placeholder now).
    """
    said = {}
    shards = {shard_of(name, parts["embeddings"]) for name in planned.respelled}
    for number in sorted(shards):
        table = read_rows(run, part_path("embeddings", number, parts["embeddings"]), EMBEDDINGS)
        words: dict[str, list[dict[str, Any]]] = defaultdict(list)
        # A word that is missing was changed by another driver since, and this run says that it is not there.
        for row in [] if table is None else table.to_pylist():
            if planned.respelled.get(row["concept"]) == row["fingerprint"]:
                words[row["concept"]].append(row)
        for name, samples in samples_of_words(run, words, parts["samples"]):
            said[name] = (str(words[name][0]["placeholder"]), concepts[name].placeholder)
            _write(run, words[name], samples, planned.done[name], concepts[name].placeholder, family)
            step(len(said), len(planned.respelled))
    return dict(sorted(said.items()))


def _write(
    run: RunFolder,
    rows: Sequence[Mapping[str, Any]],
    samples: pa.Table,
    fingerprint: str,
    placeholder: str,
    family: Family,
) -> None:
    """rows, samples: of the word as it is."""
    name, before = str(rows[0]["concept"]), str(rows[0]["placeholder"])
    prompts = [prompt.replace(before, placeholder) for prompt in samples["prompt"].to_pylist()]
    for column, values in (("fingerprint", [fingerprint] * len(samples)), ("prompt", prompts)):
        samples = samples.set_column(samples.schema.get_field_index(column), column, pa.array(values, pa.string()))
    now = [{**row, "fingerprint": fingerprint, "placeholder": placeholder} for row in rows]
    attempt = uuid.uuid4().hex[:12]
    files = {
        "embedding.parquet": data_of(pa.Table.from_pylist(now, EMBEDDINGS)), "samples.parquet": data_of(samples),
        "word.safetensors": word_file(now, family), "grid.png": grid_file(now, samples),
    }  # fmt: skip
    for file, data in files.items():
        if data is not None:
            run.storage.write_bytes(run.attempt_path(name, fingerprint, attempt, file), data)
    run.commit(Marker(name, fingerprint, attempt, rows[0]["steps"], rows[0]["seconds"]))
