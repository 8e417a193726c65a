"""bench_gpu.py on a CPU, at the smallest sizes: it has to work on the day on which there is a GPU."""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.bench import bench_gpu
from jobs.bench.gpu import gpu_job, gpu_rates, pack, time_budget
from jobs.bench.gpu.busy_gpu import Busy, watched
from jobs.bench.gpu.gpu_table import markdown
from jobs.bench.gpu.time_budget import Bench
from tests.job_process import ROOT

CPU = ["--device", "cpu", "--model", "mini"]
MACHINE = {"device": "a GPU", "date": "2026-11-28", "machine": "a machine"}


@pytest.mark.long
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bench-gpu.json"
    told = [*CPU, "--slots", "1", "2", "--concepts", "2", "--steps", "2", "--no-compile"]
    assert bench_gpu.main([*told, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    mini = found["mini"]
    assert found["skipped"] == []
    assert mini["slots"].keys() == {"1", "2"}
    assert all(each["share_of_bare"] > 0 for each in mini["slots"].values())
    assert mini["plain"]["images_per_second"] > 0
    assert mini["bit_identical_alone"]
    assert mini["cosine_beside_others"] > 0.999
    assert (mini["job"]["concepts"], mini["job"]["failed"]) == (2, 0)
    assert mini["job"]["seconds_until"]["first_word"] > 0
    table = output.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert f"| mini | 2 | {mini['slots']['2']['images_per_second']} |" in table
    assert "mini, seconds of a worker's start: " in table


def test_steps_are_measured_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the job, with graphs that need a GPU."""
    monkeypatch.setattr(time_budget, "WARM_UP", 0)
    monkeypatch.setattr(time_budget, "COUNTED", 1)
    monkeypatch.setattr(bench_gpu, "measure_faster", functools.partial(only_graphs, gpu_rates.measure_faster))
    output = tmp_path / "bench-gpu.json"
    assert bench_gpu.main([*CPU, "--slots", "1", "2", "--concepts", "0", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    no_gpu = "NotFasterError: ValueError: CUDA graphs need a GPU"
    assert found["skipped"] == [f"mini: {count} slots, graph: {no_gpu}" for count in (1, 2)]
    assert all(each["share_of_bare"] > 0 for each in found["mini"]["slots"].values())
    assert found["mini"]["plain"]["images_per_second"] > 0
    assert found["mini"]["bit_identical_alone"]


def only_graphs(measure: Callable[..., None], *told: Any) -> None:
    if "graph" in told:  # blocks are compiled for a minute
        measure(*told)


@pytest.mark.long
def test_without_ray_and_torchvision_all_is_measured_but_jobs(tmp_path: Path) -> None:
    """On a bare machine: torch and what it needs, and the smaller pack. Catches an import that only a job needs."""
    site, packed = Path(str(distribution("torch").locate_file(""))), tmp_path / "packed"
    bare: dict[str, Distribution] = pack.packages_for(jobs=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pack, "THERE", re.compile("setuptools|pip"))
        pack.needed("torch", frozenset(), bare)
    packed.mkdir()
    for name in {name.split("/")[0] for package in bare.values() for _, name in pack.files_of(package)}:
        (packed / name).symlink_to(site / name)
    output = tmp_path / "bench-gpu.json"
    command = [os.path.realpath(sys.executable), "-S", "jobs/bench/bench_gpu.py", *CPU, "--slots", "1", "--no-compile"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{packed}", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--output", str(output)], cwd=ROOT, env=environment, check=True)
    found = json.loads(output.read_text())
    assert [each.partition(": Mod")[0] for each in found["skipped"]] == ["mini: job"]
    assert found["mini"]["slots"]["1"]["images_per_second"] > 0
    assert found["mini"]["plain"]["images_per_second"] > 0


def test_what_the_time_does_not_suffice_for_is_listed(tmp_path: Path) -> None:
    output = tmp_path / "bench-gpu.json"
    told = ["--slots", "1", "--no-compile", "--minutes", "1e-12"]
    assert bench_gpu.main([*CPU, *told, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["skipped"] == ["mini: load: no time was left"]
    assert "Not measured: mini: load: no time was left." in output.with_suffix(".md").read_text()


def bench_of(tmp_path: Path, seconds: float = 60) -> Bench:
    return Bench("cpu", "auto", (1,), time.monotonic() + seconds, tmp_path / "bench.json", dict(MACHINE))


def test_each_figure_is_written_before_the_next_is_measured(tmp_path: Path) -> None:
    """Catches a benchmark that is cut off by whoever lent the machine, and leaves nothing."""
    bench, into = bench_of(tmp_path), dict[str, Any]()
    bench.report["mini"] = {"slots": {1: into}, "plain": {}, "job": {}}
    assert bench.part("first", lambda: {"images_per_second": 7.5}, into)

    def second() -> dict[Any, Any]:
        assert json.loads(bench.output.read_text())["mini"]["slots"]["1"] == {"images_per_second": 7.5}
        assert "| mini | 1 | 7.5 |" in bench.output.with_suffix(".md").read_text()
        raise ValueError("one line\nand another")

    assert not bench.part("second", second, into)
    assert json.loads(bench.output.read_text())["skipped"] == ["second: ValueError: one line"]


@pytest.mark.parametrize(("left", "most"), [(0.2, None), (60, 0.2)])
def test_a_measurement_that_takes_too_long_is_ended(left: float, most: float | None, tmp_path: Path) -> None:
    """Catches a compiler, or a job, that takes the time of all that comes after it."""
    bench, began = bench_of(tmp_path, left), time.monotonic()

    def endless() -> dict[Any, Any]:
        while time.monotonic() - began < 20:
            with contextlib.suppress(Exception):  # as compilers do
                time.sleep(1)
        return {}

    assert not bench.part("endless", endless, {}, most)
    assert time.monotonic() - began < 10
    assert bench.skipped == ["endless: no time was left"]
    assert bench.part("next", lambda: {"a": 1}, {}) == (left == 60)


class Finalised:
    def __del__(self) -> None:
        time.sleep(1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_rings_in_a_finaliser_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what is raised there, and the measurement would have no end."""
    monkeypatch.setattr(time_budget, "TO_END", 1.5)
    bench, began = bench_of(tmp_path, 0.2), time.monotonic()

    def endless() -> dict[Any, Any]:
        each = Finalised()
        del each
        while time.monotonic() - began < 20:
            time.sleep(0.1)
        return {}

    assert not bench.part("endless", endless, {})
    assert time.monotonic() - began < 10
    assert bench.skipped == ["endless: no time was left"]


def test_a_job_that_is_cut_short_says_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def invert(request: Any, _: Any) -> None:
        words = Path(request.output, "words")
        words.mkdir(parents=True)
        (words / "c-0.safetensors").touch()
        time.sleep(20)

    monkeypatch.setattr("jobs.api.invert", invert)
    bench, into = bench_of(tmp_path), dict[str, Any]()
    bench.report["mini"] = {"slots": {}, "plain": {}, "job": into}
    job = functools.partial(gpu_job.whole_job, bench_gpu.SUBJECTS["mini"], tmp_path, bench, 3, 1)
    assert bench.part("job", job, into, 1.0)
    assert (into["concepts"], into["cut_short_after"]) == (3, 1)
    assert "| mini | 1 of 3, cut short |" in bench.output.with_suffix(".md").read_text()


def test_from_the_number_of_slots_that_does_not_fit_gradients_are_checkpointed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointed = [False]

    class Model:
        def checkpoint_gradients(self, on: bool) -> bool:
            checkpointed[0] = on
            return on

    def rates(_: Any, count: int, __: Any) -> dict[str, Any]:
        if count > (8 if checkpointed[0] else 2):
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return {"images_per_second": float(count), "share_of_bare": 0.9, "peak_gib": 1.0}

    monkeypatch.setattr(gpu_rates, "rates", rates)
    monkeypatch.setattr(gpu_rates, "neighbours", lambda _: {})
    bench, into = bench_of(tmp_path), {"slots": dict[Any, Any](), "plain": {}, "job": {}}
    bench.slots, bench.report["sdxl"] = (1, 2, 4, 8, 16, 32), into
    gpu_rates.measure_usual(bench_gpu.SUBJECTS["sdxl"], Model(), bench, into)  # type: ignore[arg-type]
    bench.write()
    assert list(into["slots"]) == [1, 2, 4, 8]
    table = bench.output.with_suffix(".md").read_text()
    assert "| sdxl | 2 | 2.0 |" in table
    assert "| sdxl | 4, checkpointed | 4.0 |" in table
    assert not checkpointed[0]


def test_how_busy_the_gpu_was_is_told_of_the_time_between_two_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a mean over a job's start and its report, in which nobody uses the GPU."""
    busy = Busy([(1.0, 0.0), (2.0, 0.9), (3.0, 1.0), (4.0, 0.0)])
    assert busy.share(1.5, 3.5) == 0.95
    assert busy.share(5, 6) is None
    there = tmp_path / "nvidia-smi"
    there.write_text("#!/bin/sh\necho 90\necho '[N/A]'\necho ' 70'\nexec sleep 20\n")
    there.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("P", (), {"uuid": "1234"}))
    with watched() as seen:
        while len(seen.samples) < 2:
            time.sleep(0.01)
    assert [share for _, share in seen.samples] == [0.9, 0.7]


def test_a_machine_without_nvidia_smi_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("P", (), {"uuid": "1234"}))
    with watched() as seen:
        pass
    assert seen.samples == []


def test_the_table_has_a_row_for_everything_that_was_measured() -> None:
    slot = {
        "images_per_second": 124.2, "share_of_bare": 0.89, "peak_gib": 25.6, "images_per_second_blocks": 170.0,
        "share_of_bare_blocks": 1.22,
    }  # fmt: skip
    job = {
        "concepts": 8, "seconds": 200.0, "concepts_per_hour": 144, "gpu_busy": 0.96, "seconds_until": {"first_word": 61.0},
        "seconds_of_a_workers_start": {"the model was loaded": 12.5},
    }  # fmt: skip
    sd = {"slots": {8: slot}, "plain": {"images_per_second": 22.7, "peak_gib": 6.0}, "job": job}
    table = markdown(MACHINE | {"sd-1.5": sd, "skipped": []})
    assert "| sd-1.5 | 8 | 124.2 | 0.89 | 25.6 | 170.0, 1.22 |  |" in table
    assert "| sd-1.5, plain loop | 1 | 22.7 |  | 6.0 |  |  |" in table
    assert "| sd-1.5 | 8 | 200.0 | 144 | 0.96 | 61.0 |" in table
    assert "sd-1.5, seconds of a worker's start: the model was loaded 12.5." in table


@pytest.mark.parametrize("jobs", [True, False])
def test_the_pack_holds_what_is_needed_besides_torch(
    jobs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages = pack.packages_for(jobs=jobs)
    names = {name.lower().replace("_", "-") for name in packages}
    assert {"diffusers", "transformers", "tokenizers", "safetensors", "regex", "numpy", "pillow"} <= names
    assert ({"ray", "open-clip-torch", "pyarrow", "aiohttp"} & names) == (
        {"ray", "open-clip-torch", "pyarrow", "aiohttp"} if jobs else set()
    )
    assert not {name for name in names if pack.THERE.fullmatch(name)}
    assert not {"pytest", "wordmint"} & names
    monkeypatch.setattr(pack, "packages_for", lambda *, jobs: {"regex": packages["regex"]})
    pack.main([str(tmp_path / "pack.tar.gz"), *([] if jobs else ["--without-jobs"])])
    with tarfile.open(tmp_path / "pack.tar.gz") as archive:
        assert "regex/__init__.py" in archive.getnames()
