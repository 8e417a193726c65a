"""A run of scripted workers in a process of its own: python -m tests.scripted_job FOLDER ADDRESS WORKERS GPUS NAME ...

Prints one JSON object: what became of each concept, how often a call broke off, the most GPU nodes there were at once, and
the seconds from the last concept until there was none.
"""

import json
import sys
import time
from pathlib import Path

import ray

from pipeline.driver import Progress
from pipeline.records import Failure
from tests.scripted_run import ScriptedRun

ROOT = Path(__file__).parents[1]


def gpu_nodes() -> int:
    return sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU"))


def main(folder: str, address: str, workers: str, gpus: str, *names: str) -> None:
    local = {"num_cpus": 2, "include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, configure_logging=False,
             runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, **local)  # fmt: skip
    run, seen, most = ScriptedRun(Path(folder), list(names)), [], [gpu_nodes()]

    def watch(progress: Progress) -> None:
        seen.append(progress)
        most.append(gpu_nodes())

    run.report = watch
    run.go(workers=int(workers), gpus=float(gpus))
    ended = time.monotonic()
    while gpu_nodes():
        time.sleep(0.1)
    print(json.dumps({
        "results": {name: result.reason if isinstance(result, Failure) else "" for name, result in run.results.items()},
        "restarts": seen[-1].restarts, "gpu_nodes": [most[0], max(most)], "seconds_to_none": time.monotonic() - ended,
    }))  # fmt: skip
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
