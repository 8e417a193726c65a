"""bench.py: what one part finds outlasts the others, and stands in a table."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.bench import bench, bench_scheduling
from jobs.bench.bench_scheduling import occupancy_beside_pictures
from pipeline.models.load import load_backbone
from pipeline.protocols import QUICK
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.inversion import Slot, new_slot
from tests.tiny_model import PIXELS


def parts(monkeypatch: pytest.MonkeyPatch, **given: Callable[[Any], dict[str, float]]) -> None:
    monkeypatch.setattr(bench, "PARTS", given)
    monkeypatch.setattr(bench, "USUAL", tuple(given))


def fails(_: Any) -> dict[str, float]:
    raise RuntimeError("moto's server ended at once")


def test_the_same_command_goes_on_with_the_parts_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a part that fails, or a bench that is stopped, and takes the hour before with it."""
    output, ran = tmp_path / "bench.json", list[str]()

    def figures(name: str, **found: float) -> Callable[[Any], dict[str, float]]:
        def part(settings: InversionSettings) -> dict[str, float]:
            assert settings.start == "pictures", "the shipped model's recipe"
            ran.append(name)
            return found

        return part

    scan = figures("scan", resume_scan_seconds_100k=27.9, resume_scan_seconds_100k_moto=95.9)
    driver = figures(
        "driver", driver_concepts_per_second=1611.2, driver_ms_per_concept=0.42, driver_rss_mb_at_start=162.0,
        driver_rss_growth_mb_10k=22.0, driver_files_left_10k=1,
    )  # fmt: skip
    parts(monkeypatch, scan=scan, curve=fails, driver=driver)
    assert bench.main(["--output", str(output)]) == 1
    assert ran == ["scan", "driver"]
    said = capsys.readouterr()
    assert "not measured, see above: curve" in said.err
    assert "| `scan` | 27.9 s; 95.9 s |" in said.out
    parts(monkeypatch, scan=scan, curve=figures("curve", unet_evaluations_over_paper=0.2), driver=driver)
    assert bench.main(["--output", str(output)]) == 0
    assert ran == ["scan", "driver", "curve"]
    table = output.with_suffix(".md").read_text()
    for row in ("27.9 s; 95.9 s", "1,611 concepts/s; 0.42 ms of its CPU a concept", "162.0 MB, 22.0 MB; 1", "0.2"):
        assert f"| {row} |" in table
    assert bench.main(["--output", str(output)]) == 0
    assert ran[3:] == ["scan", "curve", "driver"], "once none is missing, all are measured again"
    assert bench.main(["--output", str(output), "--part", "scan"]) == 0
    assert ran[6:] == ["scan"]
    assert json.loads(output.read_text())["seconds_of_parts"].keys() == {"scan", "curve", "driver"}


@pytest.mark.parametrize(("name", "value"), [("commit", "other"), ("steps", 7), ("machine", "other"), (None, None)])
def test_figures_of_another_commit_or_machine_are_not_gone_on_with(
    name: str | None, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, ran = tmp_path / "bench.json", list[int]()
    parts(
        monkeypatch, scan=lambda _: {"resume_scan_seconds_100k": 1.0, "resume_scan_seconds_100k_moto": 2.0}, curve=fails
    )
    assert bench.main(["--output", str(output)]) == 1
    found = json.loads(output.read_text())
    output.write_text(json.dumps(found | {name: value}) if name else "{ torn")

    def again(settings: InversionSettings) -> dict[str, float]:
        ran.append(1)
        return fails(settings)

    parts(monkeypatch, scan=again, curve=lambda _: {"unet_evaluations_over_paper": 0.2})
    assert bench.main(["--output", str(output)]) == 1
    assert ran == [1]
    assert "resume_scan_seconds_100k" not in json.loads(output.read_text())


@pytest.mark.long
def test_every_row_of_the_table_has_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a row that names a figure which its part does not measure."""
    monkeypatch.setattr(bench_scheduling, "LENGTHS", [2, 3])
    monkeypatch.setattr(bench_scheduling, "COMMITTED", 50)
    monkeypatch.setattr(bench, "COUNTED", 1)
    output = tmp_path / "bench.json"
    told = [argument for part in bench.USUAL if part != "job" for argument in ("--part", part)]
    assert bench.main(["--output", str(output), "--steps", "20", *told]) == 0
    rows = output.with_suffix(".md").read_text().splitlines()
    assert len(rows) == 4 + sum(part not in ("job", "curve") for part, _, _ in bench.ROWS)
    assert not [row for row in rows if re.search(r"nan|none", row.split("|")[-2] if "`" in row else "")]


def test_slots_are_full_while_words_are_drawn(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a measurement of a batch that nothing enters."""
    torch.set_num_threads(1)
    monkeypatch.setattr(bench_scheduling, "LENGTHS", [20, 30, 40, 20, 30, 40])
    monkeypatch.setattr(bench_scheduling, "LOOK_SECONDS", 0.002)
    backbone = load_backbone(str(epsilon_model))
    pixels = np.zeros((1, PIXELS, PIXELS, 3), np.uint8)

    def new(number: int, settings: InversionSettings) -> Slot:
        concept = Concept(f"c-{number}", (), f"<c-{number}>", initializer="cat", noun="cat")
        return new_slot(concept, pixels, backbone, settings)

    figures = occupancy_beside_pictures(backbone, new, 2, replace(QUICK, steps=1))
    assert 0.7 < figures["slots_occupied_with_pictures"] <= 1
    assert figures["concepts_per_minute_with_pictures"] > 0
