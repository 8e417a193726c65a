"""A metric from outside: the documented one on a finished run, one that raises, changes, or is not on all machines."""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.judges.outside_metric import MetricError, WordPictures, find_metric, find_metrics, value_of
from eval.report.summary_files import refuse_taken
from jobs import invert_all
from tests.job_process import QUICKLY, ROOT, FinishedRun, few_pictures, job, table, write_manifest
from tests.test_documents import blocks

FAULTY = """
def faulty(pictures):
    if pictures.concept == "owl":
        raise RuntimeError("no owls")
    return 1
"""


def documented() -> str:
    """The example of docs/reference.md."""
    (found,) = [text for language, text in blocks(ROOT / "docs/reference.md") if "def brightness" in text]
    return found


def scored_by(run: Path, metric: str) -> dict[str, float]:
    scores = table(run, "scores")
    mine = scores[scores["metric"] == metric]
    return dict(zip(mine["concept"], mine["value"], strict=True))


@pytest.mark.long
def test_the_documented_metric_is_scored_reported_and_scored_anew_when_it_changes(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    """Catches a metric whose fault costs the night or the other scores, and scores of an older version of it."""
    run = Path(shutil.copytree(finished_run.folder, tmp_path / "run"))
    (tmp_path / "brightness.py").write_text(documented(), encoding="utf-8")
    (tmp_path / "faulty.py").write_text(FAULTY, encoding="utf-8")
    where = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    before = len(table(run, "scores"))
    ended = job(
        run, "--metric", "brightness:brightness", "--metric", "faulty:faulty", script="evaluate.py", environment=where
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "no score of owl: faulty:faulty has no value for owl: RuntimeError: no owls" in ended.stdout
    assert len(table(run, "scores")) == before + 3
    assert all(0 < value < 1 for value in scored_by(run, "brightness").values())
    assert scored_by(run, "faulty") == {"mixed": 1}
    concepts = pd.read_parquet(run / "report" / "concepts.parquet").set_index("concept")
    assert concepts["brightness"].to_dict() == scored_by(run, "brightness")
    assert concepts["brightness_floor"].to_list() == [0, 0]
    assert math.isnan(concepts["faulty"]["owl"])
    summary = json.loads((run / "report" / "summary.json").read_text(encoding="utf-8"))
    assert summary["brightness"]["n"] == 2
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "<h2>brightness <b>0." in page
    assert '<option value="brightness:1">lowest brightness</option>' in page

    (tmp_path / "brightness.py").write_text(documented().replace("/ 255", "/ 2550"), encoding="utf-8")
    again = job(run, "--metric", "brightness:brightness", script="evaluate.py", environment=where)
    assert again.returncode == 0, again.stdout + again.stderr
    darker = scored_by(run, "brightness")
    assert darker == pytest.approx({name: value / 10 for name, value in concepts["brightness"].items()})
    assert len(table(run, "scores")) == before + 3, "the other metric's score stays"
    ended = job(
        run,
        run,
        "--metric",
        "brightness:brightness",
        "--output",
        tmp_path / "diff",
        script="diff.py",
        environment=where,
    )
    assert ended.returncode == 0, ended.stderr
    assert "brightness: " in ended.stdout


def test_a_metric_that_the_workers_do_not_have_is_said_before_anything_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a night of training whose words then have no score."""
    (tmp_path / "on_the_driver_only.py").write_text("def f(pictures):\n    return 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [str(write_manifest(tmp_path, ["owl"])), "--output", str(tmp_path / "run"), *QUICKLY,
                 "--protocol", str(few_pictures(tmp_path)), "--metric", "on_the_driver_only:f"]  # fmt: skip
    assert invert_all.main(arguments) == invert_all.NOT_STARTED
    said = capsys.readouterr().err
    assert (
        "--metric on_the_driver_only:f: this machine has no module 'on_the_driver_only'; install it on all machines"
        in said
    )
    assert not (tmp_path / "run" / "words").exists()


PICTURE = np.zeros((4, 4, 3), np.uint8)
PICTURES = WordPictures("owl", (PICTURE,), "a <owl>", (PICTURE,), (), {}, {})
MODULE = """
import sys
def good(pictures): return len(pictures.training)
def nothing(pictures): return float("nan")
def text(pictures): return "high"
def true(pictures): return True
def endless(pictures): return float("inf")
def leaves(pictures): sys.exit(3)
def Loud(pictures): return 1
def editability(pictures): return 1
def floored(pictures): return 1
floored.floor = "low"
def turned(pictures): return 1
turned.higher_is_better = "no"
class Made:
    name = "good"
    made = 0
    def __init__(self): Made.made += 1
    def __call__(self, pictures): return Made.made
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_metrics.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "broken_metrics.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "shop-1.0.dist-info").mkdir()
    (tmp_path / "shop-1.0.dist-info" / "METADATA").write_text("Name: shop\nVersion: 1.0\n", encoding="utf-8")
    (tmp_path / "shop-1.0.dist-info" / "entry_points.txt").write_text(
        "[wordmint.metrics]\nshops = some_metrics:good\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_metrics", raising=False)
    return "some_metrics"


def test_a_function_a_class_and_an_entry_point_give_a_value(module: str) -> None:
    assert value_of(find_metric(f"{module}:good"), PICTURES) == 1
    assert math.isnan(value_of(find_metric(f"{module}:nothing"), PICTURES))
    found = find_metric("shops")
    assert (found.spelled, found.name) == ("some_metrics:good", "good")
    made = find_metric(f"{module}:Made")
    assert [value_of(made, PICTURES) for _ in range(2)] == [1, 1], "a class is made once"


@pytest.mark.parametrize("name", ["text", "true", "endless", "leaves"])
def test_what_is_no_number_is_a_failure_that_names_metric_and_concept(name: str, module: str) -> None:
    with pytest.raises(MetricError, match=f"^{module}:{name} has no value for owl: "):
        value_of(find_metric(f"{module}:{name}"), PICTURES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("some_metrics:gone", "some_metrics has no function or class 'gone'"),
        ("some_metrics:number", "some_metrics has no function or class 'number'"),
        ("some_metrics:Loud", "its name 'Loud' must be small letters"),
        ("some_metrics:floored", "its floor is 'low'; it takes a number"),
        ("some_metrics:turned", "its higher_is_better is 'no'"),
        ("broken_metrics:f", "importing broken_metrics failed: ZeroDivisionError"),
        ("no_such:f", "this machine has no module 'no_such'"),
        ("no_such", "there is no entry point 'no_such' of wordmint.metrics, installed are shops"),
        ("a b:f", "it takes module:function"),
        ("some_metrics:", "it takes module:function"),
    ],
)
@pytest.mark.usefixtures("module")
def test_a_metric_that_cannot_be_used_is_refused_with_what_is_wrong(given: str, said: str) -> None:
    with pytest.raises(MetricError) as caught:
        find_metric(given)
    assert said in str(caught.value)
    assert given in str(caught.value)


def test_two_metrics_of_one_name_and_the_name_of_one_of_ours_are_refused(module: str) -> None:
    with pytest.raises(MetricError, match="some_metrics:good is called good too"):
        find_metrics([f"{module}:good", f"{module}:Made"])
    with pytest.raises(MetricError, match="there is a metric or a column 'editability' already"):
        refuse_taken(find_metrics([f"{module}:editability"]))
