"""Measures the cost and the gain of scheduling: the part of bench.py that trains little or nothing.

driver_...                 see bench_driver.py
resume_scan_seconds_100k   from a run folder with 100,000 committed concepts to the answer that nothing is left to do, on
                           local disk; ..._moto with the run folder in moto's S3 server
occupancy_over_packs       concepts a minute of continuous batching over fixed packs of as many slots, lengths being unequal
slots_occupied_with_pictures   share of slots that hold a concept, while words are drawn beside the training, until none waits
"""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.inputs.image_sets import digest_of, find_sources
from pipeline.models.base import Backbone
from pipeline.models.find import find_model
from pipeline.protocols import QUICK, Protocol
from pipeline.records import Concept, Source
from pipeline.sampling.grid import encode_png
from pipeline.sampling.picture_pool import PicturePool
from pipeline.sampling.pictures_of_a_word import wanted_of
from pipeline.sampling.prompting import requests_for
from pipeline.scheduling.calls import calls_ahead, calls_at_most
from pipeline.scheduling.continuous_batch import ContinuousBatch
from pipeline.scheduling.planning import plan
from pipeline.settings import InversionSettings
from pipeline.store.fingerprint import content_of, fingerprint
from pipeline.store.parts import create_layout, part_path, write_table
from pipeline.store.run_folder import Marker, RunFolder, shard_of
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import Storage
from pipeline.training.inversion import Slot, train_step

COMMITTED = 100_000
SETTINGS = InversionSettings()
NewSlot = Callable[[int, InversionSettings], Slot]  # of a concept, by its number
LENGTHS: Sequence[int] = np.random.default_rng(0).integers(10, 81, 16).tolist()  # steps of each concept
LOOK_SECONDS = 0.02


def driver_overhead() -> dict[str, float]:
    """What bench_driver.py prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "jobs.bench.bench_driver"], stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def resume_scan() -> dict[str, float]:
    """100,000 committed concepts of one image each, the images on local disk."""
    model = find_model("mini")
    with tempfile.TemporaryDirectory() as folder:
        concepts = []
        for number in range(COMMITTED):
            images = Path(folder, "images", f"{number // 1000:03d}", f"{number:06d}")
            images.mkdir(parents=True)
            name = f"concept-{number:06d}"
            (images / "1.png").write_bytes(b"%d" % number)
            concepts.append(Concept(name=name, images=(str(images),), placeholder=f"<{name}>"))

        def prints() -> Iterator[tuple[Concept, str, Source]]:
            for concept in concepts:
                (source,) = find_sources(concept).files
                known = replace(source, digest=digest_of(source, {}))
                yield concept, fingerprint(concept, [content_of(known)], model.digest, "auto", SETTINGS), known

        rows = list(prints())

        def seconds(run: RunFolder) -> float:
            began = time.monotonic()
            planned = plan(concepts, run, model, "auto", SETTINGS, {})
            took = time.monotonic() - began
            if planned.left or planned.failed or len(planned.done) != COMMITTED:
                raise RuntimeError(f"{len(planned.done)} of {COMMITTED} concepts were found to be done")
            return round(took, 1)

        here = RunFolder(Storage(f"{folder}/run"))
        leave_tables(here, rows)
        for concept, fingerprint_, _ in rows:
            here.commit(Marker(concept.name, fingerprint_, "aaa", 200, 1.0))
        figures = {"resume_scan_seconds_100k": seconds(here)}
        with moto_with(Path(folder, "run")) as there:
            figures["resume_scan_seconds_100k_moto"] = seconds(there)
        return figures


def leave_tables(run: RunFolder, rows: list[tuple[Concept, str, Source]]) -> None:
    parts = create_layout(run, COMMITTED)["embeddings"]
    by_part: dict[int, list[dict[str, object]]] = {number: [] for number in range(parts)}
    vector = (
        np.random.default_rng(0).standard_normal((1, 768), np.float32).tolist()
    )  # vector length of Stable Diffusion 1.x
    for concept, fingerprint_, source in rows:
        row = {"concept": concept.name, "fingerprint": fingerprint_, "vectors": vector, "sources": [asdict(source)]}
        by_part[shard_of(concept.name, parts)].append(row)
    for number, some in by_part.items():
        write_table(run, part_path("embeddings", number, parts), pa.Table.from_pylist(some, EMBEDDINGS))


@contextmanager
def moto_with(run: Path) -> Iterator[RunFolder]:
    """moto's S3 server in a process of its own, with a copy of that run folder from the start."""
    serve = (
        "import sys, pathlib, moto.server\n"
        "from moto.s3.models import s3_backends\n"
        "backend = s3_backends['123456789012']['aws']\n"
        "backend.create_bucket('bench', 'us-east-1')\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for path in root.rglob('*'):\n"
        "    if path.is_file():\n"
        "        backend.put_object('bench', 'run/' + path.relative_to(root).as_posix(), path.read_bytes())\n"
        "moto.server.main(['-H', '127.0.0.1', '-p', sys.argv[2]])\n"
    )
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
    port = "5999"
    command = [sys.executable, "-c", serve, str(run), port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise RuntimeError("moto's server ended at once: install the test extra, as `make bench` does")
        yield RunFolder(Storage("s3://bench/run", {"endpoint_url": endpoint}))
    finally:
        server.terminate()
        server.wait(30)


def occupancy(backbone: Backbone, new: NewSlot, slots: int = 4) -> dict[str, float]:
    """Sixteen concepts of 10 to 80 steps: continuous batching, fixed packs, one at a time.

    Measures concepts a minute, training only, and the share of slots in use, which is the gain on a machine whose step takes
    about as long for one concept as for several.
    """

    def waiting() -> list[Slot]:
        return [new(number, InversionSettings(steps=steps, early_stop="off")) for number, steps in enumerate(LENGTHS)]

    def continuous() -> int:
        queue, training, steps = waiting(), list[Slot](), 0
        while queue or training:
            steps += 1
            while queue and len(training) < slots:
                training.append(queue.pop(0))
            ended = {slot for slot, _ in train_step(backbone, training)}
            training = [slot for slot in training if slot not in ended]
        return steps

    def packs(size: int) -> int:
        queue, steps = waiting(), 0
        while queue:
            pack, queue = queue[:size], queue[size:]
            while pack:
                steps += 1
                ended = {slot for slot, _ in train_step(backbone, pack)}
                pack = [slot for slot in pack if slot not in ended]
        return steps

    busy = {}

    def per_minute(name: str, run: Callable[[], int]) -> float:
        began = time.monotonic()
        busy[name] = sum(LENGTHS) / (run() * slots)
        return 60 * len(LENGTHS) / (time.monotonic() - began)

    rates = {
        "continuous": per_minute("continuous", continuous),
        "packs": per_minute("packs", lambda: packs(slots)),
        "one": per_minute("one", lambda: packs(1)),
    }
    return {
        "occupancy_over_packs": round(rates["continuous"] / rates["packs"], 2),
        "occupancy_over_one_at_a_time": round(rates["continuous"] / rates["one"], 2),
        **{f"concepts_per_minute_{name}": round(rate, 1) for name, rate in rates.items()},
        **{f"slots_occupied_{name}": round(busy[name], 2) for name in ("continuous", "packs")},
    }


def occupancy_beside_pictures(
    backbone: Backbone, new: NewSlot, slots: int = 4, protocol: Protocol = QUICK
) -> dict[str, float]:
    """The same concepts in a worker's own batch, with as many calls in flight as the driver allows: each word is drawn and its
    pictures are encoded while others train.
    """
    batch = ContinuousBatch(
        backbone, slots, lambda _: None, math.inf, lambda *_: None, pictures=PicturePool(backbone, protocol)
    )
    untrained, entered = threading.Semaphore(slots + calls_ahead(slots)), list[int]()

    def learn(number: int, steps: int) -> None:
        made: list[Slot] = []

        def enter() -> Slot:
            entered.append(number)
            made.append(new(number, InversionSettings(steps=steps, early_stop="off")))
            return made[0]

        with untrained:
            word = batch.train("", enter)
        concept = made[0].concept
        requests = requests_for(concept, protocol, made[0].settings.seed)
        for pixels in batch.draw(batch.run(lambda: wanted_of(backbone, concept, word.vectors, requests))):
            encode_png(pixels)

    began = time.monotonic()
    held: list[int] = []
    with ThreadPoolExecutor(calls_at_most(slots)) as calls:
        learned = [calls.submit(learn, number, steps) for number, steps in enumerate(LENGTHS)]
        while len(entered) < len(LENGTHS) and not any(each.done() and each.exception() for each in learned):
            held += [len(batch.training)] if entered else []
            time.sleep(LOOK_SECONDS)
    for each in learned:
        each.result()
    return {
        "slots_occupied_with_pictures": round(float(np.mean(held)) / slots, 3),
        "concepts_per_minute_with_pictures": round(60 * len(LENGTHS) / (time.monotonic() - began), 1),
    }
