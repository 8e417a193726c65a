"""invert_all.py --plan: what would be done, by name, with nothing started and nothing written."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.application.night.rates import Rate, measured, rate_of
from jobs.invert_all import main
from pipeline.settings import InversionSettings
from tests.job_process import DEMO, LEARNED, FinishedRun


def plan(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*arguments, "--plan", "--log-format", "json"]) == 0
    *phases, line = capsys.readouterr().out.splitlines()
    assert {json.loads(each)["event"] for each in phases} <= {"phase"}  # on a slow machine
    return dict(json.loads(line))


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(**_: object) -> None:
        raise AssertionError("Ray was asked")

    monkeypatch.setattr("ray.init", started)


def test_the_plan_of_a_run_that_never_was_names_every_concept_and_creates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    said = plan(
        [str(DEMO / "manifest.csv"), "--output", str(folder), "--workers", "4", "--price-per-hour", "2"], capsys
    )
    assert len(said["new"]) == 12
    assert (said["done"], said["changed"], said["gone"], said["failed"]) == ([], {}, [], {})
    assert not said["measured"]
    assert said["money"] == pytest.approx(said["seconds"] / 3600 * 4 * 2)
    assert not folder.exists()


def test_the_plan_after_a_change_says_of_each_concept_what_would_be_done_and_why(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a plan that has to be guessed from counts, and one that writes."""
    run = tmp_path / "run"
    shutil.copytree(finished_run.folder, run)
    old = Path(finished_run.arguments[0])
    rows = [json.loads(line) for line in old.read_text(encoding="utf-8").splitlines()]
    pictures = tmp_path / "owl"
    shutil.copytree(DEMO / "images" / "owl", pictures)
    arguments = [*finished_run.arguments]
    arguments[arguments.index("--output") + 1] = str(run)
    assert plan(arguments, capsys)["done"] == LEARNED
    before = files(run)

    # The owl starts from other words, a cup is new, a row that failed is gone.
    said = plan([*arguments, "--steps", "9"], capsys)
    assert said["changed"].keys() == set(LEARNED)
    assert "setting steps 8 -> 9" in said["changed"]["owl"]
    assert said["measured"]
    assert said["seconds"] > 0
    spelled = [row | {"placeholder": "<mix>"} if row["concept"] == "mixed" else row for row in rows]
    rows = [
        row | {"initializer": "toy"} if row["concept"] == "owl" else row for row in rows if row["concept"] != "mixed"
    ]
    rows.append({"concept": "cup", "images": str(pictures)})
    old_text = old.read_text(encoding="utf-8")
    try:
        old.write_text("\n".join(map(json.dumps, spelled)), encoding="utf-8")
        said = plan(arguments, capsys)
        assert (said["respelled"], said["done"], said["changed"]) == (["mixed"], LEARNED, {})
        old.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        said = plan(arguments, capsys)
    finally:
        old.write_text(old_text, encoding="utf-8")
    assert said["new"] == ["cup"]
    assert said["changed"] == {"owl": ["initializer bird -> toy"]}
    assert said["gone"] == ["mixed"]
    assert said["failed"].keys() == finished_run.wrong.keys()
    assert "no such file" in said["failed"]["nowhere"]
    assert files(run) == before


def test_a_changed_picture_is_named(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, arguments = tmp_path / "run", [*finished_run.arguments]
    shutil.copytree(finished_run.folder, run)
    arguments[arguments.index("--output") + 1] = str(run)
    picture = next(Path(arguments[0]).parent.glob("mixed-0/good.png"))
    content = picture.read_bytes()
    other = picture.with_name("more.png")
    try:
        picture.write_bytes((DEMO / "images" / "owl" / "2.jpg").read_bytes())
        other.write_bytes((DEMO / "images" / "owl" / "4.jpg").read_bytes())
        assert main([*arguments, "--plan"]) == 0
        assert "mixed: good.png has changed, more.png is new" in capsys.readouterr().out
    finally:
        picture.write_bytes(content)
        other.unlink()


def test_a_bad_manifest_is_said_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.csv"), "--output", str(tmp_path / "run"), "--plan"]) == 2
    assert "no.csv" in capsys.readouterr().err


def test_the_rate_of_a_run_is_that_of_its_own_milestones_and_read_back() -> None:
    """Catches words that pay for the start of the workers, and workers that had nothing to do."""
    reached = {
        "planned": 1.0,
        "training": 11.0,
        "first_word": 15.0,
        "last_word": 31.0,
        "published": 32.0,
        "reported": 36.0,
    }
    rate = measured(reached, workers=2, words=10)
    assert rate == Rate(11.0, 4.0, 0.5, 2)
    assert rate.seconds(10, 2) == pytest.approx(36)
    assert rate.seconds(100, 4) == pytest.approx(11 + 100 + 50)
    assert measured(reached, workers=8, words=1).worker_seconds == 20
    made = {
        "measured": {
            "start_seconds": 11.0,
            "worker_seconds": 4.0,
            "report_seconds": 0.5,
            "workers": 2,
            "measured": True,
        }
    }
    assert rate_of(made, InversionSettings()) == rate
    assert not rate_of({}, InversionSettings()).measured
    assert not rate_of({"measured": None}, InversionSettings()).measured
