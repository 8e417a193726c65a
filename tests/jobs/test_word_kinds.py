"""One run behind the text encoder with a negative word in it: learned, scored, exported and imported by the jobs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.job_process import DEMO, QUICKLY, few_pictures, job, table

MANIFEST = f"""concept,images,class,kind
owl,{DEMO}/images/owl,bird,
flat,{DEMO}/images/duotone,car,negative
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "manifest.csv").write_text(MANIFEST, encoding="utf-8")
    told = ("--word-place", "output", "--offload-text-encoders", "--learning-rate", "0.1")
    ended = job(
        folder / "manifest.csv", "--output", folder / "run", *QUICKLY, "--protocol", few_pictures(folder), *told
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "run"


@pytest.mark.long
def test_the_files_say_what_the_words_are(run: Path) -> None:
    for name, negative in (("owl", "false"), ("flat", "true")):
        file = run / "words" / f"{name}.safetensors"
        assert set(load_file(file)) == {"clip_l_out"}
        with safe_open(file, "np") as opened:
            said = opened.metadata()
        assert said["modelspec.is_negative_embedding"] == negative
        assert len(said["modelspec.date"]) == len("2026-11-27")
        day = said["modelspec.date"]
        rows: Any = table(run, "embeddings").set_index("concept")
        assert rows.learned[name] == day
        assert rows.text_encoder[name] == "text_encoder_out"


@pytest.mark.long
def test_a_negative_word_is_scored_as_one(run: Path) -> None:
    """Catches a word to be avoided among the means of words to be drawn."""
    scores: Any = table(run, "scores")
    found = {(row.concept, row.metric): row for row in scores.itertuples()}
    avoided = found["flat", "avoidance"]
    assert 0 < avoided.value < 1
    assert 0 < avoided.floor < 1
    for metric in ("image_similarity", "subject_fidelity", "copies"):
        assert math.isnan(found["flat", metric].value)
        assert not math.isnan(found["owl", metric].value)
    assert ("owl", "avoidance") not in found
    similarity = found["owl", "image_similarity"].value
    summary = json.loads((run / "report/summary.json").read_text())
    assert summary["reconstruction"]["value"] == pytest.approx(similarity)
    assert (run / "report/index.html").stat().st_size > 10_000


@pytest.mark.long
def test_the_words_are_exported_and_imported_again(run: Path, tmp_path: Path) -> None:
    ended = job(run, "--layout", "comfyui", "--output", tmp_path / "comfyui", script="export_words.py")
    assert ended.returncode == 2
    assert "<flat> stands behind its text encoder (clip_l_out)" in ended.stdout + ended.stderr
    ended = job(run, "--layout", "onetrainer", "--output", tmp_path / "words", script="export_words.py")
    assert ended.returncode == 0, ended.stderr
    assert set(load_file(tmp_path / "words/owl.safetensors")) == {"emp_params_out"}
    told = ("--protocol", few_pictures(tmp_path), "--slots", "2", "--workers", "1")
    (tmp_path / "kind.csv").write_text(MANIFEST, encoding="utf-8")
    ended = job(
        tmp_path / "kind.csv",
        "--words",
        tmp_path / "words",
        "--output",
        tmp_path / "run",
        *told,
        script="import_words.py",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    vectors: Any = [table(each, "embeddings").set_index("concept").vectors for each in (tmp_path / "run", run)]
    for name in ("owl", "flat"):
        assert (vectors[0][name][0] == vectors[1][name][0]).all()
