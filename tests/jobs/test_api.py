"""docs/python_api.md as it stands, over two of the demo's concepts; and what the API raises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.api import (
    EvaluationRequest,
    Listener,
    NotStartedError,
    PictureRequest,
    Placement,
    RunRequest,
    RunResult,
    evaluate,
    generate,
    invert,
)
from jobs.invert_all import parser, request_of
from pipeline.records import Failure
from pipeline.training.recipes import recipe_of
from tests.job_process import PATIENCE, ROOT, few_pictures, write_manifest
from tests.test_documents import blocks


@pytest.mark.long
def test_the_documented_example_runs_as_it_stands(tmp_path: Path) -> None:
    """Catches an example that the API has outgrown."""
    demo = tmp_path / "jobs" / "demo"
    demo.mkdir(parents=True)
    write_manifest(demo, ["owl", "taxi"])
    code = "\n".join(text for language, text in blocks(ROOT / "docs" / "python_api.md") if language == "python")
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert said[:2] == ["2 words, 0 failures", "runs/from-python/report/index.html"] or said[0] == "2 words, 0 failures"
    assert any(line.startswith("2 pictures in ") for line in said)
    run = tmp_path / "runs" / "from-python"
    assert sorted(path.stem for path in (run / "words").iterdir()) == ["owl", "taxi"]
    assert json.loads((run / "run.json").read_text())["finished"]


def test_a_command_and_a_request_ask_for_the_same(tmp_path: Path) -> None:
    """Catches a default that a command has and Python has not: the one would learn again what the other has learned."""
    assert request_of(parser().parse_args(["manifest.csv"])) == RunRequest("manifest.csv", settings=recipe_of("mini"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"manifest": "nowhere.csv"}, "nowhere.csv"),
        ({"model": "no/such/model/here"}, "model 'no/such/model/here'"),
        ({"protocol": "papre"}, "protocol 'papre'"),
        ({"import_words": True}, "give --words"),
    ],
)
def test_a_request_that_cannot_be_met_starts_nothing(changed: dict[str, object], said: str, tmp_path: Path) -> None:
    request = {"manifest": str(write_manifest(tmp_path, ["owl"])), "output": str(tmp_path / "run"), **changed}
    with pytest.raises(NotStartedError, match=said):
        invert(RunRequest(**request))  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "run.json").exists()


def test_what_is_no_run_is_neither_scored_nor_drawn(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"run\.json"):
        evaluate(EvaluationRequest((str(tmp_path),)))
    with pytest.raises(NotStartedError, match=r"run\.json"):
        generate(PictureRequest(str(tmp_path), ("a photo of <owl>",)))


class Heard(Listener):
    def __init__(self) -> None:
        self.events: list[str] = []

    def say(self, event: str, text: str, **fields: object) -> None:
        self.events.append(event)


def test_a_listener_hears_how_a_run_goes_and_the_same_request_again_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    manifest = write_manifest(tmp_path, ["empty"], str(tmp_path))
    request = RunRequest(
        str(manifest),
        str(tmp_path / "run"),
        protocol=str(few_pictures(tmp_path)),
        placement=Placement(workers=1, slots=1),
    )
    heard = Heard()
    result = invert(request, heard)
    assert list(result.failures) == ["empty"]
    assert result.failures["empty"].stage == "images"
    assert heard.events[0] == "manifest"
    assert heard.events[-2:] == ["end", "report"]
    again = invert(request)
    assert (again.done, again.failures.keys()) == (result.done, result.failures.keys())


@pytest.mark.parametrize(
    ("accepted", "bad"), [(0, {"cup", "pot"}), (1, {"cup", "pot"}), (2, set()), (frozenset({"cup", "owl"}), {"pot"})]
)
def test_known_failures_do_not_make_a_run_a_bad_one(accepted: int | frozenset[str], bad: set[str]) -> None:
    """Catches a broken row that makes every night exit with 1, until nobody looks any more."""
    failures = {name: Failure(name, "images", "no such file") for name in ("cup", "pot")}
    assert RunResult("run", {"owl": "f"}, failures, 1.0, accepted).unaccepted.keys() == bad
