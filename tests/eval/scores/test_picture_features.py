"""--keep-features: the features of all pictures and texts, as the documents read them."""

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import eval.judges.judge
import eval.scores.score_run
from eval.scores.drawn_pictures import RunModel
from eval.scores.metric_table import expected_metrics
from eval.scores.score_run import Judgement, conditions, unscored
from pipeline.settings import ModelSettings
from pipeline.store.parts import read_layout
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.test_documents import ROOT, blocks
from tests.tiny_run import NAMES, PROTOCOL, Colours, evaluate, learn, rows_of


def example() -> str:
    (found,) = [text for _, text in blocks(ROOT / "docs/reference.md") if "picture_features" in text]
    return found


def test_the_documented_example_finds_the_scores_from_the_features(
    epsilon_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches features of other pictures than were scored, and words scored before that never get theirs."""
    torch.set_num_threads(1)
    for module in (eval.judges.judge, eval.scores.score_run):
        monkeypatch.setattr(module, "load_scorer", lambda name, device: Colours())
    run = RunFolder(Storage(str(tmp_path / "run")))
    learn(run, epsilon_model, dict.fromkeys(NAMES, 1))
    drawing = RunModel(str(epsilon_model), "cpu", ModelSettings(), seed=0)
    judgement = Judgement(PROTOCOL, "tiny", "m0", "colours", "cpu", drawing)
    assert evaluate(run, judgement) == 3
    assert not (tmp_path / "run" / "picture_features").exists()
    keeping = replace(judgement, keep_features=True)
    assert (evaluate(run, keeping), evaluate(run, keeping)) == (3, 0), "scored before without it, and once is enough"
    metrics = expected_metrics(PROTOCOL, reads_texts=True)
    assert unscored(run, 0, read_layout(run), conditions(judgement), metrics, features=True) == []

    said = StringIO()
    with redirect_stdout(said):
        exec(example().replace("runs/demo", str(tmp_path / "run")).replace('"owl"', '"ant"'), {})  # noqa: S102
    lines = said.getvalue().splitlines()
    scores = {
        row["metric"]: row["value"]
        for row in rows_of(run, "scores/part-00000-of-00001.parquet")
        if row["concept"] == "ant"
    }
    assert lines[0].startswith("reconstruction ")
    assert float(lines[0].split()[-1]) == pytest.approx(scores["image_similarity"], abs=1e-5)
    assert float(lines[1].split()[-1]) == pytest.approx(scores["text_similarity"], abs=1e-5)

    rows = pd.read_parquet(tmp_path / "run" / "picture_features")
    samples = pd.read_parquet(tmp_path / "run" / "samples")
    pictures = rows[~rows["kind"].isin(["text", "class"])]
    assert sorted(zip(pictures["concept"], pictures["kind"], pictures["index"], strict=True)) == sorted(
        zip(samples["concept"], samples["kind"], samples["index"], strict=True)
    )
    assert np.allclose([np.linalg.norm(each) for each in rows["feature"]], 1, atol=1e-5)
    assert dict(rows[rows["concept"] == "ant"].groupby("kind")["text"].first().dropna()) == {
        "class": "a photo of cat", "text": "at night",
    }  # fmt: skip
