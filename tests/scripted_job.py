"""A run of scripted workers in a process of its own: python -m tests.scripted_job FOLDER ADDRESS WORKERS GPUS NAME ...

Prints one JSON object: what became of each concept, how often a call broke off, and the seconds from the last concept until
there was no GPU node. Each time the number of GPU nodes has changed, it is appended to the file `gpu-nodes` of the folder.
"""

import json
import sys
import time
from pathlib import Path

import ray

from pipeline.records import Failure
from pipeline.scheduling.driver import Progress
from tests.scripted_run import ScriptedRun

ROOT = Path(__file__).parents[1]


class GpuNodes:
    """Counts them, and leaves the changes on record."""

    def __init__(self, record: Path) -> None:
        self.record, self.last = record, -1

    def count(self) -> int:
        now = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU"))
        if now != self.last:
            self.last = now
            with self.record.open("a") as opened:
                opened.write(f"{now}\n")
        return now


def main(folder: str, address: str, workers: str, gpus: str, *names: str) -> None:
    ray.init(
        address=address, num_cpus=2 if address == "local" else None, include_dashboard=False, log_to_driver=False,
        configure_logging=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    run, nodes, seen = ScriptedRun(Path(folder), list(names)), GpuNodes(Path(folder) / "gpu-nodes"), []
    nodes.count()

    def watch(progress: Progress) -> None:
        seen.append(progress)
        nodes.count()

    run.report = watch
    run.go(workers=int(workers), gpus=float(gpus))
    ended = time.monotonic()
    while nodes.count():
        time.sleep(0.1)
    print(json.dumps({
        "results": {name: result.reason if isinstance(result, Failure) else "" for name, result in run.results.items()},
        "restarts": seen[-1].restarts, "seconds_to_none": round(time.monotonic() - ended, 1),
    }))  # fmt: skip
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
