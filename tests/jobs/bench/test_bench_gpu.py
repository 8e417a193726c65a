"""bench_gpu.py on a CPU, at the smallest sizes: it has to work on the day on which there is a GPU."""

import json
import tarfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from jobs.bench import bench_gpu, pack


@pytest.mark.long
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bench-gpu.json"
    told = [
        "--device",
        "cpu",
        "--model",
        "mini",
        "--slots",
        "1",
        "2",
        "--concepts",
        "2",
        "--steps",
        "2",
        "--no-compile",
    ]
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


def test_what_the_time_does_not_suffice_for_is_listed(tmp_path: Path) -> None:
    """Catches a benchmark that is cut off by whoever lent the machine, and leaves nothing."""
    output = tmp_path / "bench-gpu.json"
    told = ["--device", "cpu", "--model", "mini", "--slots", "1", "--no-compile", "--minutes", "0.0001"]
    assert bench_gpu.main([*told, "--output", str(output)]) == 0
    expected = ["mini: 1 slots: no time was left", "mini: plain loop: no time was left", "mini: job: no time was left"]
    assert json.loads(output.read_text())["skipped"] == expected
    assert "Not measured: mini: job: no time was left." in output.with_suffix(".md").read_text()


def test_the_pack_holds_what_is_needed_besides_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages: dict[str, Distribution] = {}
    pack.needed("wordmint", frozenset(), packages)
    names = {name.lower().replace("_", "-") for name in packages}
    assert {"ray", "diffusers", "transformers", "open-clip-torch", "safetensors", "regex", "aiohttp"} <= names
    assert not {name for name in names if pack.THERE.fullmatch(name)}
    assert "pytest" not in names
    monkeypatch.setattr(pack, "needed", lambda name, extras, seen: seen.update(wordmint=None, ftfy=packages["ftfy"]))
    pack.main(str(tmp_path / "pack.tar.gz"))
    with tarfile.open(tmp_path / "pack.tar.gz") as archive:
        assert "ftfy/__init__.py" in archive.getnames()
