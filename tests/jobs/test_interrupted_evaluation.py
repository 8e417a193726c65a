"""A night's evaluation in a process of its own, killed on its way, against one that nobody disturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.models.find import find_model
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.tiny_run import learn

ROOT = Path(__file__).parents[2]
NAMES = ("ant", "bee", "cow", "doe", "elk", "fox")
PROTOCOL = """
plain_images = 6
edit_images = 3
untrained_images = 2
steps = 4
[edits]
object = ["a photo of {} at night", "a dark photo of {}"]
"""
COMPARED = ("value", "low", "high", "floor", "ceiling", "covered", "floor_noun", "floor_wordless")


def evaluate(run: Path, protocol: Path, model: Path) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "jobs/evaluate.py",
        str(run),
        "--protocol",
        str(protocol),
        "--night",
        "n1",
        "--model",
        str(model),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def tables(run: Path, name: str) -> list[dict[str, object]]:
    rows = [row for path in sorted((run / name).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: tuple(str(row.get(key)) for key in ("concept", "metric", "prompt")))


def everything(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.long
@pytest.mark.parametrize("at", ["evaluations/*/samples/*.parquet", "_scoring/scores@*"], ids=["drawing", "scoring"])
def test_an_evaluation_that_is_killed_goes_on_and_comes_to_the_same_tables(
    at: str, epsilon_model: Path, tmp_path: Path
) -> None:
    """Catches pictures or scores lost, doubled, or taken from the half of a file, when the driver dies."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    learn(RunFolder(Storage(str(undisturbed))), epsilon_model, dict.fromkeys(NAMES, 1))
    settings = {"model": str(epsilon_model), "model_digest": find_model(str(epsilon_model)).digest, "clip": "mini",
                "protocol": "tiny-v1", "model_settings": {}, "settings": {"seed": 0, "resolution": None}}  # fmt: skip
    (undisturbed / "run.json").write_text(json.dumps(settings))
    shutil.copytree(undisturbed, disturbed)
    protocol = tmp_path / "mine.toml"
    protocol.write_text(PROTOCOL)
    assert evaluate(undisturbed, protocol, epsilon_model).wait(240) == 0

    process = evaluate(disturbed, protocol, epsilon_model)
    deadline = time.monotonic() + 120
    while not list(disturbed.glob(at)):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((disturbed / "scores").glob("*.parquet")), "it had been through when it was killed"
    assert evaluate(disturbed, protocol, epsilon_model).wait(240) == 0
    assert not list((disturbed / "_scoring").glob("*"))

    for one, other in zip(tables(undisturbed, "scores"), tables(disturbed, "scores"), strict=True):
        for column in COMPARED:
            assert np.isclose(_number(one.pop(column)), _number(other.pop(column)), atol=2e-3, equal_nan=True), column
        assert one == other
    assert [row["concept"] for row in tables(disturbed, "features")] == list(NAMES)
    before = everything(disturbed)
    assert evaluate(disturbed, protocol, epsilon_model).wait(240) == 0
    assert everything(disturbed) == before, "the same night twice changes nothing"


def _number(value: object) -> float:
    return float("nan") if value is None else float(str(value))
