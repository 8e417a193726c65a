"""One run behind the text encoder with a negative word in it: learned, scored, exported, imported, drawn by the jobs."""

import json
from pathlib import Path

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


def test_the_files_say_what_the_words_are(run: Path) -> None:
    for name, negative in (("owl", "false"), ("flat", "true")):
        file = run / "words" / f"{name}.safetensors"
        assert set(load_file(file)) == {"clip_l_out"}
        with safe_open(file, "np") as opened:
            said = opened.metadata()
        assert said["modelspec.is_negative_embedding"] == negative
        assert len(said["modelspec.date"]) == len("2026-11-27")
    rows = table(run, "embeddings")
    assert set(rows.text_encoder) == {"text_encoder_out"}
    assert set(rows.learned) == {said["modelspec.date"]}


def test_a_negative_word_is_scored_as_one(run: Path) -> None:
    """Catches a word to be avoided among the means of words to be drawn."""
    scores = table(run, "scores").set_index(["concept", "metric"]).sort_index()
    assert scores.loc[("flat", "avoidance"), "value"].notna().all()
    assert scores.loc[("flat", "avoidance"), "floor"].notna().all()
    for metric in ("image_similarity", "subject_fidelity", "copies"):
        assert scores.loc[("flat", metric), "value"].isna().all()
        assert scores.loc[("owl", metric), "value"].notna().all()
    assert ("owl", "avoidance") not in scores.index
    similarity = scores.loc[("owl", "image_similarity"), "value"].iloc[0]
    summary = json.loads((run / "report/summary.json").read_text())
    assert summary["reconstruction"]["value"] == pytest.approx(similarity)
    assert (run / "report/index.html").stat().st_size > 10_000


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
    theirs, ours = (table(each, "embeddings").set_index("concept") for each in (tmp_path / "run", run))
    for name in ("owl", "flat"):
        assert (theirs.loc[name, "vectors"][0] == ours.loc[name, "vectors"][0]).all()
    (tmp_path / "plain.csv").write_text(MANIFEST.replace(",negative", ","), encoding="utf-8")
    ended = job(
        tmp_path / "plain.csv",
        "--words",
        tmp_path / "words",
        "--output",
        tmp_path / "no",
        *told,
        script="import_words.py",
    )
    assert ended.returncode == 1
    assert "give the concept the kind 'negative'" in "".join(table(tmp_path / "no", "failures").reason)


def test_a_prompt_is_drawn_against_it(run: Path, tmp_path: Path) -> None:
    told = ("--count", "1", "--steps", "2", "--output", tmp_path / "pictures")
    ended = job(run, "--prompt", "a photo of <owl>", "--negative", "<flat>", *told, script="generate.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    against = next((tmp_path / "pictures").glob("000-*.png")).read_bytes()
    assert json.loads((tmp_path / "pictures/generated.json").read_text())["negative"] == "<flat>"
    ended = job(run, "--prompt", "a photo of <owl>", *told, script="generate.py")
    assert ended.returncode == 0
    assert next((tmp_path / "pictures").glob("000-*.png")).read_bytes() != against
    ended = job(run, "--prompt", "a <owl> and <flat>", *told, script="generate.py")
    assert ended.returncode == 2
    assert "<flat> is a negative word" in ended.stdout + ended.stderr
