"""Machines that are taken away, or run out of memory, each on a real Ray."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from pipeline.losses import LIVES
from tests.scripted_run import quick

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
PATIENCE = 300.0


@pytest.fixture(autouse=True)
def ray_environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield patch


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[Any]") -> None:
    began = time.monotonic()
    while not condition():
        assert process.poll() is None, "the process on which that depends has ended"
        assert time.monotonic() - began < PATIENCE, "it did not come about"
        time.sleep(0.1)


def begin(folder: Path, address: str, workers: int, gpus: float, names: list[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.scripted_job", str(folder), address, str(workers), str(gpus), *names]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, complaint[-3000:]
    # Ray may say something of its own after it.
    told: dict[str, Any] = json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("{")))
    return told


def test_a_machine_that_is_taken_away_costs_a_concept_none_of_its_lives(tmp_path: Path) -> None:
    """Catches concepts given up because the spot market had a bad night."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        cluster.add_node(num_cpus=1)
        driver = begin(tmp_path, cluster.address, 1, 0, ["held-1"])
        for loss in range(LIVES + 1):
            wait_until(lambda: len(list((tmp_path / "calls").glob("held-1@*"))) == loss + 1, driver)  # noqa: B023
            (node,) = cluster.worker_nodes
            announced = subprocess.run(
                [RAY, "drain-node", "--address", cluster.address, "--node-id", node.node_id, "--reason",
                 "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "1"],
                capture_output=True, text=True, check=False, timeout=PATIENCE,
            )  # fmt: skip
            assert announced.returncode == 0, announced.stderr
            time.sleep(1.5)  # the machine goes after the deadline that was announced
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)
        (tmp_path / "release").touch()
        told = end_of(driver)
    finally:
        cluster.shutdown()
    assert told["results"] == {"held-1": ""}
    assert told["restarts"] == LIVES + 1


def test_a_concept_that_takes_all_memory_is_given_up_and_the_others_finish(
    tmp_path: Path, ray_environment: pytest.MonkeyPatch
) -> None:
    """Catches a run ended by an error that is none of Ray's usual ones."""
    limit = psutil.virtual_memory().percent / 100 + 0.15
    ray_environment.setenv("RAY_memory_usage_threshold", f"{limit:.2f}")
    ray_environment.setenv("RAY_memory_monitor_refresh_ms", "100")
    results = end_of(begin(tmp_path, "local", 1, 0, ["hungry-1", *quick(4)]))["results"]
    assert {name for name, reason in results.items() if reason} == {"hungry-1"}
    assert f"broke off {LIVES} times" in results["hungry-1"]
    assert "memory" in results["hungry-1"]
