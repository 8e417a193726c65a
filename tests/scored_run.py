"""Scores a synthetic run folder in a process of its own: python -m tests.scored_run FOLDER CONCEPTS

Prints one JSON object: the pictures' megabytes on disk, those that the driver grew by while they were scored, and seconds.
"""

import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import ray
import ray.data  # here, as what it takes itself is not what grows
from PIL import Image

from eval.scores.score_run import Judgement, score_run
from pipeline.protocols import QUICK
from pipeline.records import Concept, ImageSet, Sample, SampleKind, Word
from pipeline.store.parts import create_layout, part_path, write_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.run_tables import embedding_rows, sample_rows
from pipeline.store.storage import Storage

ROOT = Path(__file__).parents[1]
KINDS: tuple[tuple[SampleKind, str], ...] = (
    ("training", ""), ("training", ""), ("reconstruction", "a photo of <x>"), ("reconstruction", "a photo of <x>"),
    ("untrained", "a photo of <x>"), ("edit", "a photo of <x> at night"),
)  # fmt: skip


def noise(rng: np.random.Generator) -> bytes:
    """A PNG of 28 kB, as large as a picture of the smallest real models after a good packing."""
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(run: RunFolder, count: int) -> None:
    rng, vectors = np.random.default_rng(0), {"text_encoder": np.ones((1, 4), np.float32)}
    parts = create_layout(run, count)
    embeddings: dict[int, list[pa.Table]] = {}
    samples: dict[int, list[pa.Table]] = {}
    for name in (f"c{number:06d}" for number in range(count)):
        word = Word(name, "<x>", vectors, vectors, "", 1, "steps", 1e-3, 0.1, 1.0)
        pictures = [
            Sample(name, kind, prompt, "a photo of at night", index, 0, noise(rng))
            for index, (kind, prompt) in enumerate(KINDS)
        ]
        images = ImageSet(np.zeros((1, 8, 8, 3), np.uint8), ("a",), ("d",))
        embeddings.setdefault(shard_of(name, parts["embeddings"]), []).append(
            embedding_rows(Concept(name, (), "<x>"), "f", word, images)
        )
        samples.setdefault(shard_of(name, parts["samples"]), []).append(sample_rows("f", pictures))
    for table, found in (("embeddings", embeddings), ("samples", samples)):
        for number, some in found.items():
            write_table(run, part_path(table, number, parts[table]), pa.concat_tables(some))


def main(folder: str, concepts: str) -> None:
    run, count = RunFolder(Storage(folder)), int(concepts)
    write(run, count)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    process = psutil.Process()
    before, began = process.memory_info().rss, time.monotonic()
    scored = score_run(run, Judgement(QUICK, "none", "0", "mini"))
    seconds = time.monotonic() - began
    assert scored.fresh == count
    print(json.dumps({
        "pictures_mb": round(sum(path.stat().st_size for path in Path(folder).glob("samples/*")) / 1e6, 1),
        "driver_mb": round((process.memory_info().rss - before) / 1e6, 1), "seconds": round(seconds, 1),
    }))  # fmt: skip
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
