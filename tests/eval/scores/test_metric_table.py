"""A metric is described once: scores, summary, report and documents follow from its line in the table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eval.judges.judge
import eval.scores.score_run
from eval.report.summary_files import CONCEPTS
from eval.scores.drawn_pictures import RunModel
from eval.scores.metric_table import COLUMNS, METRICS, expected_metrics, metrics_table
from eval.scores.score_run import Judgement
from pipeline.protocols import QUICK
from pipeline.settings import ModelSettings
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.tiny_run import NAMES, PROTOCOL, Colours, evaluate, learn

ROOT = Path(__file__).parents[3]

NEW_METRIC = '''
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import mean
import io
import numpy as np
from PIL import Image


def brightness(samples):
    return np.array([np.asarray(Image.open(io.BytesIO(each.png)).convert("L")).mean() / 255 for each in samples])


def measure(encoded, texts):
    """Of the pixels: features do not know it."""
    of = lambda kind: brightness([each for each in encoded.samples if each.kind == kind])
    yield Measurement(encoded.plain_prompt, of("reconstruction"), mean(of("untrained")), mean(of("training")))


METRIC = Metric(
    name="brightness", figure="brightness", order=99, measure=measure,
    columns=(Column("brightness", "value", "brightness"), Column("brightness_floor", "floor"),
             Column("brightness_ceiling", "ceiling")),
    headline=("brightness",), meaning="how light the pictures are", floor="the untrained word's", ceiling="the training images'",
    unit="share of white", title="Brightness", about="How light.", sorts=(("brightness", -1, "lightest"),),
)
'''

EVALUATED_AGAIN = """
import json, sys
import torch
import eval.scores.measured
eval.scores.measured.__path__.append(sys.argv[1])
import eval.judges.judge
import eval.scores.score_run
from eval.report.report_page import render_report
from eval.scores.drawn_pictures import RunModel
from eval.scores.metric_table import metrics_table
from eval.scores.score_run import Judgement
from eval.report.summary_files import concept_rows, summary_json
from pipeline.settings import ModelSettings
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.tiny_run import PROTOCOL, Colours, evaluate, rows_of, summary

torch.set_num_threads(1)
eval.judges.judge.load_scorer = eval.scores.score_run.load_scorer = lambda name, device: Colours()
run = RunFolder(Storage(sys.argv[2]))
judgement = Judgement(PROTOCOL, "tiny", "m0", "colours", "cpu", RunModel(sys.argv[3], "cpu", ModelSettings(), seed=0))
fresh = evaluate(run, judgement)
again = evaluate(run, judgement)
found = summary(run, judgement)
print(json.dumps({
    "fresh": fresh, "again": again, "scores": rows_of(run, "scores/part-00000-of-00001.parquet"),
    "concepts": concept_rows(found).to_pylist(), "summary": summary_json(found),
    "page": render_report(found, {}, [], {}), "documents": metrics_table(),
}))
"""


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for module in (eval.judges.judge, eval.scores.score_run):
        monkeypatch.setattr(module, "load_scorer", lambda name, device: Colours())


def test_the_documents_have_the_table_as_it_is() -> None:
    assert metrics_table() in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_a_column_belongs_to_one_metric_and_every_headline_is_a_column() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert set(names) <= set(CONCEPTS.names)
    for metric in METRICS:
        own = {column.name for column in metric.columns}
        assert {metric.figure, *metric.headline, *metric.medians, *(column for column, _, _ in metric.sorts)} <= own
    assert len({metric.order for metric in METRICS}) == len(METRICS)


def test_what_a_judge_cannot_see_is_not_expected_of_it() -> None:
    """Catches a night that scores all words again because a judge of pictures has no text similarity."""
    assert expected_metrics(QUICK, reads_texts=True) - expected_metrics(QUICK, reads_texts=False) == {
        ("text_similarity", None)
    }


def test_one_new_file_is_a_new_metric_and_reaches_old_runs(epsilon_model: Path, tmp_path: Path) -> None:
    """Catches a metric that needs a second place, or that only words learned after it are given."""
    run = RunFolder(Storage(str(tmp_path / "run")))
    learn(run, epsilon_model, dict.fromkeys(NAMES, 1))
    judgement = Judgement(
        PROTOCOL, "tiny", "m0", "colours", "cpu", RunModel(str(epsilon_model), "cpu", ModelSettings(), seed=0)
    )
    assert evaluate(run, judgement) == 3
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "brightness.py").write_text(NEW_METRIC, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", EVALUATED_AGAIN, tmp_path / "more", tmp_path / "run", epsilon_model],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["fresh"], found["again"]) == (3, 0)
    assert sorted(row["concept"] for row in found["scores"] if row["metric"] == "brightness") == list(NAMES)
    assert all(0 < row["brightness"] < 1 and row["brightness_floor"] is not None for row in found["concepts"])
    assert found["summary"]["brightness"]["n"] == 3
    assert "<h2>Brightness <b>0." in found["page"]
    assert '<option value="brightness:-1">lightest</option>' in found["page"]
    assert '{"name":"brightness","label":"brightness","percent":false}' in found["page"]
    assert "| brightness | `brightness` | how light the pictures are |" in found["documents"]
