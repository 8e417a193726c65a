"""Measures the driver's overhead: the real loop with 10,000 concepts, empty training, and 8 workers of 4 slots.

  python -m jobs.bench.bench_driver

Prints one JSON object. bench.py runs it in its own process, because a driver's memory is measured without torch.

driver_ms_per_concept      CPU time of the driver
driver_rss_growth_mb_10k   of its memory, from the first concept to the last
driver_files_left_10k      in the run folder
"""

import io
import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import psutil

from cluster.session import ray_session
from jobs.application.progress import ProgressDisplay
from jobs.cli.log import Log
from pipeline.protocols import PROTOCOLS
from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.deadlines import Deadlines
from pipeline.scheduling.driver import Driver, Progress, Resources
from pipeline.scheduling.prometheus import RunMetrics
from pipeline.scheduling.worker_interface import Pulse, WorkerSettings
from pipeline.scheduling.worker_process import WorkerProcess
from pipeline.settings import InversionSettings
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage

CONCEPTS, WORKERS, SLOTS = 10_000, 8, 4


class EmptyWorker(WorkerProcess):
    """A worker that reports every concept as done."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Has nothing to import."""

    def load(self) -> int:
        return SLOTS

    def invert(self, concept: Concept) -> Done:
        return Done(concept.name, "0" * 64, 1, 0.0)

    def pulse(self) -> Pulse:
        return Pulse(0, 0, SLOTS, {}, None)

    def checkpoint(self) -> None:
        """Nothing is in training."""

    def weights_digests(self) -> tuple[str, str]:
        return "", ""


def measure(folder: str) -> dict[str, float]:
    """What the job does with each concept and at each turn of the loop is done here too."""
    run = RunFolder(Storage(folder))
    settings = WorkerSettings(
        model="none", model_digest="", device="cpu", threads=1, slots=SLOTS,
        inversion=InversionSettings(), protocol=PROTOCOLS["quick"], run=run, storage_options={},
    )  # fmt: skip
    display, metrics = ProgressDisplay(run, Log("text"), (0, 0)), RunMetrics()
    done: dict[str, str] = {}
    began: list[tuple[float, float, float]] = []

    def record(concept: Concept, result: Done | Failure) -> None:
        if not began:  # all workers have started by now
            began.append(now())
        done[concept.name] = result.fingerprint

    def report(progress: Progress) -> None:
        display(progress)
        metrics(progress)

    concepts = (Concept(name=f"concept-{number:05d}", images=(), placeholder="<word>") for number in range(CONCEPTS))
    Driver(settings, Resources(WORKERS, 1, 0), record, report, Deadlines(), EmptyWorker).run(concepts, CONCEPTS)
    wall, cpu, memory = (after - before for after, before in zip(now(), began[0], strict=True))
    return {
        "driver_ms_per_concept": round(1000 * cpu / CONCEPTS, 3),
        "driver_concepts_per_second": round(CONCEPTS / wall, 1),
        "driver_rss_mb_at_start": round(began[0][2], 1),
        "driver_rss_growth_mb_10k": round(memory, 1),
        "driver_files_left_10k": sum(path.is_file() for path in Path(folder).rglob("*")),
    }


def now() -> tuple[float, float, float]:
    """Seconds on the clock, seconds of CPU, megabytes of memory."""
    return time.monotonic(), time.process_time(), psutil.Process().memory_info().rss / 1e6


def main() -> int:
    with ray_session(cpus=WORKERS), tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        figures = measure(folder)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
