"""Machines that are taken away, run out of memory, or come and go with the work, each on a real Ray."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.cluster_utils import Cluster

from pipeline.scheduling.lost_workers import LIVES
from tests.processes import end_all_with, free_port
from tests.scripted_run import quick

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[3]
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


IDLE_SECONDS = 6.0  # after which the autoscaler takes a machine away


@pytest.fixture
def autoscaling_head(ray_environment: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head without room for work, whose autoscaler may add two machines with a GPU each.

    What ray.cluster_utils.AutoscalingCluster would start, did Ray ship that class's configuration, and did it not begin
    with a `ray stop` that ends every Ray of the machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # Ray's sockets lie in it: their paths have to be short
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = {
        "cluster_name": "fake", "max_workers": 2, "idle_timeout_minutes": IDLE_SECONDS / 60,
        "provider": {
            "type": "external", "use_node_id_as_ip": True, "disable_node_updaters": True, "gcs_address": address,
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_launch_config_check": True, "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID,
        },
        # The fake provider says of the head that it is of this type; of a type that it does not find here, the autoscaler
        # fails in each of its rounds and adds nothing.
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        **{key: [] for key in ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
                               "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")},
    }  # fmt: skip
    (folder / "autoscaling.yaml").write_text(json.dumps(config), encoding="utf-8")
    command = [RAY, "start", "--head", "--block", "--num-cpus=0", "--num-gpus=0", f"--port={port}", f"--temp-dir={folder}",
               f"--autoscaling-config={folder}/autoscaling.yaml", "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }  # fmt: skip
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            wait_until(lambda: answers(port), process)
            yield address
        finally:
            end_all_with(str(folder))
            process.wait(60)


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_machines_come_with_the_work_and_go_with_it(autoscaling_head: str, tmp_path: Path) -> None:
    """Catches a bill for GPUs that have nothing to do, before the work, in its tail or after it."""
    names = ["held-1", *(f"long-{number}" for number in range(8))]
    driver = begin(tmp_path, autoscaling_head, 2, 1, names)

    def gpu_nodes() -> list[int]:
        """How many there were, each time their number had changed."""
        record = tmp_path / "gpu-nodes"
        return [int(line) for line in record.read_text().split()] if record.exists() else []

    # The last concept is in training for as long as it takes the machine of the other worker to go.
    wait_until(lambda: gpu_nodes()[-2:] == [2, 1], driver)
    (tmp_path / "release").touch()
    told = end_of(driver)
    assert told["results"] == dict.fromkeys(names, "")
    assert told["restarts"] == 0
    assert gpu_nodes()[0] == 0
    assert max(gpu_nodes()) == 2
    assert gpu_nodes()[-1] == 0
    assert told["seconds_to_none"] < 5 * IDLE_SECONDS, "of which one time is the idle timeout"
