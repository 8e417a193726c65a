"""The main job as its user runs it: real processes, a real local Ray, the shipped model, real pictures."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from pipeline.models import MINI_FOLDER
from pipeline.storage import Storage
from tests.conftest import Bucket

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "jobs" / "demo"
CLIP_FOLDER = ROOT / "pipeline" / "mini" / "clip"
QUICKLY = ("--steps", "8", "--slots", "2")
PATIENCE = 240  # seconds any of these runs may take on a slow machine


def write_manifest(folder: Path, names: list[str], images: str = str(DEMO / "images")) -> Path:
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["concept", "images", "class", "shop"])
        rows.writerows([name, f"{images}/{name}", "", "north"] for name in names)
    return path


def job(
    *arguments: object, script: str = "invert_all.py", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / script), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two concepts that can be learned and one that cannot."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "empty").mkdir()
    (folder / "empty" / "1.png").write_bytes(b"")
    manifest = write_manifest(folder, ["owl", "taxi"])
    with manifest.open("a", encoding="utf-8") as opened:
        opened.write(f"nothing,{folder / 'empty'},,south\n")
    ended = job(manifest, "--output", folder / "run", *QUICKLY)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    return folder / "run"


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.concat([pq.read_table(part).to_pandas() for part in sorted((run / name).glob("*.parquet"))])


def test_a_run_leaves_the_whole_run_folder(run: Path) -> None:
    for path in ("run.json", "progress.json", "report/index.html", "report/summary.json", "report/concepts.parquet",
                 "words/owl.safetensors", "words/taxi.safetensors", "grids/owl.png", "grids/taxi.png"):  # fmt: skip
        assert (run / path).stat().st_size > 0, path
    embeddings = table(run, "embeddings").to_dict("records")
    owl = next(row for row in embeddings if row["concept"] == "owl")
    assert sorted(row["concept"] for row in embeddings) == ["owl", "taxi"]
    assert np.stack(owl["vectors"]).shape == (1, 128)
    assert dict(owl["carried"]) == {"shop": "north"}
    assert set(table(run, "samples")["kind"]) == {"training", "reconstruction", "edit", "untrained"}
    assert set(table(run, "scores")["metric"]) == {
        "image_similarity", "text_similarity", "diversity", "subject_fidelity", "effect"
    }  # fmt: skip
    assert list((run / "_attempts").iterdir()) == [], "what the tables hold must not lie about twice"


def test_a_broken_concept_is_a_row_in_failures_and_costs_the_others_nothing(run: Path) -> None:
    failures = table(run, "failures")
    assert failures[["concept", "stage"]].values.tolist() == [["nothing", "images"]]
    assert "1.png" in failures["reason"][0]


def test_the_frozen_model_is_bit_identical_before_and_after(run: Path) -> None:
    weights = json.loads((run / "run.json").read_text())["frozen_weights"]
    assert weights["before"] == weights["after"]


def test_an_independent_reader_reaches_the_same_scores_with_open_clip_alone(run: Path) -> None:
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{CLIP_FOLDER}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{CLIP_FOLDER}")
    model.eval()
    samples, scores = table(run, "samples"), table(run, "scores")

    def features(rows: pd.DataFrame) -> np.ndarray:
        with torch.no_grad():
            images = torch.stack([preprocess(Image.open(io.BytesIO(image["bytes"]))) for image in rows["image"]])
            return torch.nn.functional.normalize(model.encode_image(images), dim=-1).numpy()

    for name in ("owl", "taxi"):
        mine = samples[samples["concept"] == name]
        score = scores[(scores["concept"] == name) & (scores["metric"] == "image_similarity")].iloc[0]
        training = features(mine[mine["kind"] == "training"])
        drawn = features(mine[mine["kind"] == "reconstruction"])
        between = training @ training.T
        assert score["value"] == pytest.approx((drawn @ training.T).mean(), abs=1e-5)
        assert score["ceiling"] == pytest.approx(between[~np.eye(len(between), dtype=bool)].mean(), abs=1e-5)
        for _, row in scores[(scores["concept"] == name) & (scores["metric"] == "text_similarity")].iterrows():
            edited = features(mine[(mine["kind"] == "edit") & (mine["prompt"] == row["prompt"])])
            with torch.no_grad():
                said = row["prompt"].replace(f"<{name}>", "").replace("  ", " ").strip()
                text = torch.nn.functional.normalize(model.encode_text(tokenizer([said])), dim=-1).numpy()[0]
            assert row["value"] == pytest.approx((edited @ text).mean(), abs=1e-5)


def test_diffusers_draws_the_same_picture_from_the_same_word_and_seed(run: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(MINI_FOLDER)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="dpmsolver++")
    pipe.load_textual_inversion(str(run / "words" / "owl.safetensors"))
    samples = table(run, "samples")
    ours = samples[(samples["concept"] == "owl") & (samples["kind"] == "reconstruction")].iloc[0]
    theirs = pipe(
        ours["prompt"],
        num_inference_steps=20,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(int(ours["seed"])),
    ).images[0]
    difference = np.abs(np.asarray(theirs, int) - np.asarray(Image.open(io.BytesIO(ours["image"]["bytes"])), int))
    assert difference.max() <= 2, "grey levels"


def test_the_same_command_again_does_nothing_and_says_so(run: Path) -> None:
    """Would catch a resume that pays for finished work a second time."""
    before = {path: path.stat().st_mtime_ns for path in (run / "_committed").iterdir()}
    again = job(run.parent / "manifest.csv", "--output", run, *QUICKLY)
    assert again.returncode == 1, "the broken concept still is broken"
    assert "nothing to do: 2 concepts done, 1 failed" in again.stdout
    assert "workers" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (run / "_committed").iterdir()} == before


def test_scores_that_went_missing_are_made_again_by_evaluate(run: Path) -> None:
    before = table(run, "scores").sort_values(["concept", "prompt"], ignore_index=True)
    for part in (run / "scores").glob("*.parquet"):
        part.unlink()
    assert job(run, script="evaluate.py").returncode == 0
    pd.testing.assert_frame_equal(table(run, "scores").sort_values(["concept", "prompt"], ignore_index=True), before)
    again = job(run, script="evaluate.py")
    assert "0 concepts scored now, 2 in all" in again.stdout


def test_another_protocol_is_drawn_from_the_words_and_kept_apart(run: Path, tmp_path: Path) -> None:
    """Would catch the pictures of training scored under the name of a protocol they were not drawn for."""
    protocol = tmp_path / "mine.toml"
    protocol.write_text(
        'plain_images = 2\nedit_images = 1\nuntrained_images = 1\nsampler = "ddim"\nsteps = 2\n'
        '[edits]\nobject = ["a photo of {} at night"]\n'
    )
    before = {path: path.read_bytes() for path in (run / "samples").glob("*.parquet")}
    arguments = (run, "--protocol", protocol, "--fail-on-drop", "0.01", "--group-by", "shop", "--night", "n1")
    ended = job(*arguments, script="evaluate.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 concepts scored now, 2 in all, by mine-v1-" in ended.stdout
    assert "the first night scored this way" in ended.stdout
    assert {path: path.read_bytes() for path in (run / "samples").glob("*.parquet")} == before
    (drawn,) = (run / "evaluations").glob("mine-v1-*/samples/*.parquet")
    assert pq.read_table(drawn)["kind"].to_pylist().count("reconstruction") == 4
    again = job(*arguments, script="evaluate.py")
    assert "0 concepts scored now, 2 in all" in again.stdout
    assert "canary: judged within 0.00000, drawn again within 0.00000" in again.stdout


def test_generate_draws_two_learned_words_in_one_prompt(run: Path, tmp_path: Path) -> None:
    drawn = job(
        run,
        "--prompt",
        "a photo of <owl> and <taxi>",
        "--count",
        "2",
        "--steps",
        "3",
        "--output",
        tmp_path,
        script="generate.py",
    )
    assert drawn.returncode == 0, drawn.stderr
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["000-a-photo-of-owl-and-taxi-00.png", "000-a-photo-of-owl-and-taxi-01.png", "contact-sheet.png"]


def test_generate_names_the_word_that_a_prompt_misspells(run: Path) -> None:
    refused = job(run, "--prompt", "a photo of <owll>", script="generate.py")
    assert refused.returncode == 2
    assert "no word <owll>; did you mean <owl>" in refused.stderr


def test_a_bad_manifest_is_refused_with_all_its_errors_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("concept,images,kind\n../etc,a,object\nok,,object\nalso-ok,b,sculpture\n", encoding="utf-8")
    refused = job(path, "--output", tmp_path / "run")
    assert refused.returncode == 2
    for line in ("line 2", "line 3", "line 4"):
        assert line in refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_driver_killed_midway_goes_on_concept_by_concept(tmp_path: Path) -> None:
    """Would catch finished words being lost with the driver, or learned twice by its successor."""
    manifest = write_manifest(tmp_path, ["owl", "taxi", "drum"])
    output = tmp_path / "run"
    arguments = [str(manifest), "--output", str(output), "--steps", "8", "--workers", "1", "--slots", "1"]
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "invert_all.py"), *arguments], cwd=ROOT, start_new_session=True
    )
    deadline = time.monotonic() + PATIENCE
    while not list((output / "_committed").glob("*.json")):
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.1)
    family = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGKILL)
    for process in family:
        if process.is_running():
            process.kill()
    driver.wait()
    committed = {path.name: path.read_bytes() for path in (output / "_committed").iterdir()}
    ended = job(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{3 - len(committed)} of 3 concepts; {len(committed)} are done" in ended.stdout
    for name, marker in committed.items():
        assert (output / "_committed" / name).read_bytes() == marker
    assert sorted(table(output, "embeddings")["concept"]) == ["drum", "owl", "taxi"]


def test_a_killed_worker_costs_its_concepts_one_more_try_and_nobody_anything_else(tmp_path: Path) -> None:
    """Would catch a run that hangs on, or loses, the calls that were in flight to a dead actor."""
    manifest = write_manifest(tmp_path, ["owl", "taxi"])
    output = tmp_path / "run"
    command = [
        sys.executable,
        str(ROOT / "jobs" / "invert_all.py"),
        str(manifest),
        "--output",
        str(output),
        "--steps",
        "60",
        "--workers",
        "1",
    ]
    driver = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + PATIENCE
    victim = None
    while victim is None:
        assert time.monotonic() < deadline
        progress = output / "progress.json"
        busy = progress.exists() and json.loads(progress.read_text())["running"] > 0
        workers = [
            each
            for each in psutil.Process(driver.pid).children(recursive=True)
            if "ray::Worker" in " ".join(each.cmdline())
        ]
        victim = workers[0] if busy and workers else None
        time.sleep(0.1)
    victim.kill()
    assert driver.wait(PATIENCE) == 0
    assert sorted(table(output, "embeddings")["concept"]) == ["owl", "taxi"]


def test_a_run_whose_manifest_images_and_output_are_in_s3(bucket: Bucket) -> None:
    store = Storage(bucket.url, bucket.options)
    for picture in sorted((DEMO / "images" / "owl").iterdir()):
        store.write_bytes(f"pictures/owl/{picture.name}", picture.read_bytes())
    store.write_bytes("manifest.csv", b"concept,images\nowl,pictures/owl\n")
    option = ("--storage-option", f"endpoint_url={bucket.endpoint}")
    ended = job(f"{bucket.url}/manifest.csv", "--output", f"{bucket.url}/run", *QUICKLY, *option)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = store.find("run")
    (part,) = [path for path in written if path.startswith("embeddings/")]
    assert pd.read_parquet(io.BytesIO(store.read_bytes(f"run/{part}")))["concept"].tolist() == ["owl"]
    assert {"words/owl.safetensors", "grids/owl.png", "report/index.html", "run.json"} <= set(written)
