"""A run that loses workers, nodes and drivers: at its end everything is as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ray.cluster_utils import Cluster

from tests.counted_job import STEPS

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[3]
CONCEPTS, STEPS_EACH, KILLS = 30, 40, 10
CHECKPOINT_SECONDS = 0.2
PATIENCE = 600.0  # seconds that any one thing may take on a slow machine


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty concepts of two pictures each."""
    folder = tmp_path_factory.mktemp("catalogue")
    generator = np.random.default_rng(0)
    lines = ["concept,images"]
    for number in range(CONCEPTS):
        name = f"concept-{number:02d}"
        (folder / name).mkdir()
        for picture in range(2):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{picture}.png")
        lines.append(f"{name},{name}")
    (folder / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "manifest.csv"


@dataclass
class Machines:
    """A cluster on this machine: a head that takes no work, and nodes with room for one worker each."""

    cluster: Cluster = field(default_factory=lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0}))

    def add(self) -> None:
        self.cluster.add_node(num_cpus=1)

    def lose(self) -> None:
        """A node, without notice: its raylet and everything below it."""
        (node, *_) = self.cluster.worker_nodes
        self.cluster.remove_node(node, allow_graceful=False)

    def workers(self) -> list[psutil.Process]:
        """The actors' processes that have begun to train."""
        return [one for one in psutil.process_iter() if one.name().startswith("ray::CountedWork") and _is_ours(one)]


def _is_ours(process: psutil.Process) -> bool:
    try:
        return any(parent.pid == os.getpid() for parent in process.parents())
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def machines() -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(ROOT))
        made = Machines()
        for _ in range(2):
            made.add()
        yield made
        made.cluster.shutdown()


def start(manifest: Path, output: Path, model: Path, machines: Machines, *options: str) -> "subprocess.Popen[str]":
    command = [
        sys.executable, "-m", "tests.counted_job", str(manifest), "--output", str(output), "--model", str(model),
        "--steps", str(STEPS_EACH), "--workers", "2", "--slots", "1", "--shared-filesystem",
        "--checkpoint-seconds", str(CHECKPOINT_SECONDS), "--ray-address", machines.cluster.address, *options,
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end_of(driver: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = driver.communicate(timeout=PATIENCE)
    return driver.returncode, said


def wait_until(condition: Callable[[], object], driver: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        assert driver is None or driver.poll() is None, f"the driver ended by itself: {end_of(driver)}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Taken:
    """The optimiser steps that were taken, by whomever: (process, time, concept, step)."""

    steps: tuple[tuple[str, float, str, int], ...]

    @classmethod
    def of(cls, run: Path) -> "Taken":
        lines = [
            (file.name, *line.split())
            for file in sorted((run / STEPS).glob("*"))
            for line in file.read_text().splitlines()
            if line.count(" ") == 2
        ]
        return cls(tuple((process, float(when), concept, int(step)) for process, when, concept, step in lines))

    def most_within(self, seconds: float) -> int:
        """The most steps that one process took of one concept in any such time."""
        most = 0
        for process in {step[0] for step in self.steps}:
            times = sorted(when for one, when, _, _ in self.steps if one == process)
            first = 0
            for last, when in enumerate(times):
                while when - times[first] > seconds:
                    first += 1
                most = max(most, last - first + 1)
        return most


def table(run: Path, name: str) -> pd.DataFrame:
    rows = pd.concat([pq.read_table(part).to_pandas() for part in sorted((run / name).glob("*.parquet"))])
    keys = [key for key in ("concept", "kind", "prompt", "metric", "index") if key in rows]
    return rows.sort_values(keys, ignore_index=True)


def same_tables(run: Path, reference: Path) -> None:
    ours, theirs = (table(each, "embeddings").drop(columns="seconds") for each in (run, reference))
    for column in ("vectors", "norms", "initial_norms"):
        for one, other in zip(ours.pop(column), theirs.pop(column), strict=True):
            assert np.array_equal(np.stack(one), np.stack(other)), f"{column} differ"
    for column in ("images", "image_digests", "rejected_images", "sources", "carried"):
        assert ours.pop(column).map(list).tolist() == theirs.pop(column).map(list).tolist()
    pd.testing.assert_frame_equal(ours, theirs)
    for name in ("samples", "scores"):
        pd.testing.assert_frame_equal(table(run, name), table(reference, name))


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, epsilon_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a run in which nothing went wrong."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(ROOT))
        machines = Machines()
        machines.add()
        machines.add()
        try:
            code, said = end_of(start(manifest, run, epsilon_model, machines))
        finally:
            machines.cluster.shutdown()
    assert code == 0, said
    return run


def test_ten_kills_of_workers_nodes_and_drivers_leave_no_trace(
    manifest: Path, epsilon_model: Path, undisturbed: Path, machines: Machines, tmp_path: Path
) -> None:
    """Catches a row lost or doubled, a file orphaned, a word changed by an interruption, and work done twice for nothing."""
    run, generator = tmp_path / "run", np.random.default_rng(7)
    driver = start(manifest, run, epsilon_model, machines)
    kinds = ["worker", "node", "driver"] * (KILLS // 3) + ["worker"] * (KILLS % 3)
    for kind in generator.permutation(kinds):
        target = len(Taken.of(run).steps) + int(generator.integers(1, 60))
        wait_until(lambda: len(Taken.of(run).steps) >= target and machines.workers(), driver)  # noqa: B023
        if kind == "worker":
            machines.workers()[0].send_signal(signal.SIGKILL)
        elif kind == "node":
            machines.lose()
            machines.add()
        else:
            driver.kill()
            driver.communicate()
            driver = start(manifest, run, epsilon_model, machines)
    code, said = end_of(driver)
    assert code == 0, said

    same_tables(run, undisturbed)
    assert list((run / "_attempts").iterdir()) == []
    assert list((run / "_checkpoints").iterdir()) == []
    assert list(run.rglob("*.partial")) == []
    assert len(list((run / "_committed").iterdir())) == CONCEPTS
    for folder in ("words", "grids"):
        assert {path.name: path.read_bytes() for path in (run / folder).iterdir()} == {
            path.name: path.read_bytes() for path in (undisturbed / folder).iterdir()
        }
    taken = Taken.of(run)
    wasted = len(taken.steps) - CONCEPTS * STEPS_EACH
    # A driver takes both workers with it. The file is on its way for a moment after the interval.
    slots_lost = sum(2 if kind == "driver" else 1 for kind in kinds)
    assert 0 <= wasted <= slots_lost * (1 + taken.most_within(2 * CHECKPOINT_SECONDS))


def test_a_worker_that_is_asked_to_end_checkpoints_first(
    manifest: Path, epsilon_model: Path, machines: Machines, tmp_path: Path
) -> None:
    """Catches steps since the last checkpoint thrown away although the machine gave notice."""
    run = tmp_path / "run"
    driver = start(manifest, run, epsilon_model, machines, "--checkpoint-seconds", "1000", "--steps", "2000")
    wait_until(lambda: len(Taken.of(run).steps) > 100, driver)
    assert not (run / "_checkpoints").exists()
    (worker, *_) = machines.workers()
    worker.terminate()
    wait_until(lambda: (run / "_checkpoints").exists() and list((run / "_checkpoints").glob("*.safetensors")))
    worker.wait(PATIENCE)
    (path,) = (run / "_checkpoints").glob("*.safetensors")
    mine = [step for process, _, concept, step in Taken.of(run).steps if process == str(worker.pid)]
    wait_until(
        lambda: Counter((concept, step) for _, _, concept, step in Taken.of(run).steps)[path.stem, max(mine) + 1]
    )
    twice = [key for key, count in Counter((one[2], one[3]) for one in Taken.of(run).steps).items() if count > 1]
    assert len(twice) <= 1, "only the step that it was in may be taken again"
    driver.send_signal(signal.SIGTERM)
    code, said = end_of(driver)
    assert code == 3, said
    assert "cut short; the same command goes on from here" in said
    assert len(list((run / "_checkpoints").glob("*.safetensors"))) == 2, (
        "the driver's own end is one with notice as well"
    )


def test_two_drivers_at_once_leave_one_set_of_rows(
    manifest: Path, epsilon_model: Path, undisturbed: Path, machines: Machines, tmp_path: Path
) -> None:
    """Catches a second `ray job submit` of the same run that doubles its rows, or takes some away."""
    run = tmp_path / "run"
    drivers = [start(manifest, run, epsilon_model, machines) for _ in range(2)]
    for driver in drivers:
        code, said = end_of(driver)
        assert code == 0, said
    same_tables(run, undisturbed)
    assert list((run / "_attempts").iterdir()) == []
