"""The main job as its user runs it: real processes, a real local Ray, the shipped model, real pictures."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import psutil
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from pipeline.models.find import MINI_FOLDER
from pipeline.randomness import derive_seed
from pipeline.store.storage import Storage
from tests.conftest import Bucket
from tests.job_process import (
    CLASSES,
    DEMO,
    GUIDANCE,
    LEARNED,
    PATIENCE,
    QUICKLY,
    ROOT,
    STEPS,
    FinishedRun,
    few_pictures,
    job,
    table,
    write_manifest,
)

CLIP_FOLDER = ROOT / "pipeline" / "mini" / "clip"


@pytest.fixture
def run(finished_run: FinishedRun) -> Path:
    return finished_run.folder


def test_a_run_leaves_the_whole_run_folder(run: Path) -> None:
    for path in ("run.json", "progress.json", "report/index.html", "report/summary.json", "report/concepts.parquet",
                 "words/owl.safetensors", "words/mixed.safetensors", "grids/owl.png", "grids/mixed.png"):  # fmt: skip
        assert (run / path).stat().st_size > 0, path
    embeddings = table(run, "embeddings").to_dict("records")
    owl = next(row for row in embeddings if row["concept"] == "owl")
    assert sorted(row["concept"] for row in embeddings) == LEARNED
    assert np.stack(owl["vectors"]).shape == (6, 128)
    assert dict(owl["carried"]) == {"shop": "north"}
    assert set(table(run, "samples")["kind"]) == {
        "training", "reconstruction", "edit", "untrained", "noun", "wordless"
    }  # fmt: skip
    assert set(table(run, "scores")["metric"]) == {
        "image_similarity", "text_similarity", "diversity", "masked_image_similarity", "masked_subject_fidelity",
        "subject_fidelity", "effect", "copies",
    }  # fmt: skip
    assert list((run / "_attempts").iterdir()) == [], "what the tables hold must not lie about twice"


def test_every_line_of_a_json_log_is_an_object_with_an_event(finished_run: FinishedRun) -> None:
    events = finished_run.events
    assert {line["event"] for line in events} >= {"manifest", "model", "plan", "progress", "scores", "end", "report"}
    assert events[-1]["url"] == f"{finished_run.folder}/report/index.html"
    wrong = len(finished_run.wrong)
    assert [(line["done"], line["failed"]) for line in events if line["event"] == "end"] == [(len(LEARNED), wrong)]
    status = job(finished_run.folder, script="status.py").stdout
    assert f"done      {len(LEARNED)} of {len(LEARNED) + wrong} concepts" in status
    assert "state     finished" in status


def test_the_seconds_of_each_phase_are_on_record(run: Path) -> None:
    """Catches a slow start that nobody can explain afterwards."""
    made = json.loads((run / "run.json").read_text())
    points = ["planned", "ray", "first_word", "last_word", "published", "reported"]
    times = [made["seconds_until"][point] for point in points]
    assert times == sorted(times)
    assert made["seconds_of_a_workers_start"].keys() == {
        "a machine and a process were found", "the model was loaded", "the weights were digested",
        "the number of slots was found",
    }  # fmt: skip


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

    for name in LEARNED:
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
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(int(ours["seed"])),
    ).images[0]
    difference = np.abs(np.asarray(theirs, int) - np.asarray(Image.open(io.BytesIO(ours["image"]["bytes"])), int))
    assert difference.max() <= 2, "grey levels"


def test_the_same_command_again_does_nothing_and_says_so(finished_run: FinishedRun) -> None:
    """Would catch a resume that pays for finished work a second time."""
    before = {path: path.stat().st_mtime_ns for path in (finished_run.folder / "_committed").iterdir()}
    again = job(*finished_run.arguments)
    assert again.returncode == 1, "the broken concepts still are broken"
    assert f"nothing to do: {len(LEARNED)} concepts done, {len(finished_run.wrong)} failed" in again.stdout
    assert "workers" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (finished_run.folder / "_committed").iterdir()} == before


@pytest.mark.long
def test_a_word_brought_in_scores_as_it_did_where_it_was_learned(
    run: Path, finished_run: FinishedRun, tmp_path: Path
) -> None:
    """Catches words of other trainers that are drawn or judged by another measure than ours."""
    images = DEMO / "images" / "owl"
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"concept,images,class\nowl,{images},{CLASSES['owl']}\n", encoding="utf-8")
    brought = tmp_path / "brought"
    ended = job(
        manifest, "--words", run / "words", "--output", brought, "--workers", "1", "--protocol", finished_run.protocol,
        script="import_words.py",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ours, theirs = (
        table(folder, "scores").query("concept == 'owl'").set_index(["metric", "prompt"])["value"].sort_index()
        for folder in (run, brought)
    )
    assert {"image_similarity", "text_similarity"} <= set(theirs.index.get_level_values("metric"))
    assert (theirs - ours.loc[theirs.index]).abs().max() == 0


@pytest.mark.long
def test_scores_that_went_missing_are_made_again_by_evaluate(run: Path, finished_run: FinishedRun) -> None:
    arguments = (run, "--protocol", finished_run.protocol)
    before = table(run, "scores").sort_values(["concept", "prompt"], ignore_index=True)
    for part in (run / "scores").glob("*.parquet"):
        part.unlink()
    assert job(*arguments, script="evaluate.py").returncode == 0
    pd.testing.assert_frame_equal(table(run, "scores").sort_values(["concept", "prompt"], ignore_index=True), before)


@pytest.mark.long
def test_another_protocol_is_drawn_from_the_words_and_kept_apart(run: Path, tmp_path: Path) -> None:
    """Would catch the pictures of training scored under the name of a protocol they were not drawn for."""
    before = {path: path.read_bytes() for path in (run / "samples").glob("*.parquet")}
    other = few_pictures(tmp_path, "other", "a photo of {} on the grass")
    arguments = (run, "--protocol", other, "--fail-on-drop", "0.01", "--group-by", "shop", "--night", "n1")
    ended = job(*arguments, script="evaluate.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(LEARNED)} concepts scored now, {len(LEARNED)} in all, by other-v1-" in ended.stdout
    assert "the first night scored this way" in ended.stdout
    assert {path: path.read_bytes() for path in (run / "samples").glob("*.parquet")} == before
    (folder,) = (run / "evaluations").glob("other-v1-*")
    assert table(folder, "samples")["kind"].tolist().count("reconstruction") == 2 * len(LEARNED)
    again = job(*arguments, script="evaluate.py")
    assert f"0 concepts scored now, {len(LEARNED)} in all" in again.stdout
    assert "canary: judged within 0.00000, drawn again within 0.00000" in again.stdout


def test_generate_draws_two_learned_words_in_one_prompt_and_one_between_them(run: Path, tmp_path: Path) -> None:
    drawn = job(
        run,
        "--prompt",
        "a photo of <owl> and <mixed>",
        "--prompt",
        "a photo of <between>",
        "--prompt",
        "a photo of <between>",  # once more, as a file of prompts may have it
        "--best-of",
        "2",
        "--blend",
        "<between>=<owl>:<mixed>:0.5",
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
    assert pictures == [
        "000-a-photo-of-owl-and-mixed-00.png",
        "000-a-photo-of-owl-and-mixed-01.png",
        "001-a-photo-of-between-00.png",
        "001-a-photo-of-between-01.png",
        "contact-sheet.png",
    ]
    assert json.loads((tmp_path / "generated.json").read_text())["blends"] == ["<between>=<owl>:<mixed>:0.5"]


def test_generate_keeps_the_best_of_many(run: Path, tmp_path: Path) -> None:
    drawn = job(
        run, "--prompt", "a photo of <owl>", "--count", "2", "--best-of", "3", "--steps", "3", "--output", tmp_path,
        script="generate.py",
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert len(list(tmp_path.glob("000-*.png"))) == 2
    described = json.loads((tmp_path / "generated.json").read_text())
    assert (described["best_of"], described["judge"]) == (3, "mini")
    seeds = [derive_seed(0, "", "a photo of <owl>", index) for index in range(6)]
    kept = [picture["seed"] for picture in described["pictures"]]
    assert len(kept) == len(set(kept) & set(seeds)) == 2


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


def workers_of(driver: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return [
        each
        for each in psutil.Process(driver.pid).children(recursive=True)
        if "ray::Worker" in " ".join(each.cmdline())
    ]


@pytest.mark.long
def test_a_killed_worker_and_then_a_killed_driver_cost_what_was_in_training_and_no_more(tmp_path: Path) -> None:
    """Would catch a run that hangs on, or loses, the calls that were in flight to a dead actor; and finished words lost
    with the driver, or learned twice by its successor.
    """
    output, committed = tmp_path / "run", tmp_path / "run" / "_committed"
    arguments = [write_manifest(tmp_path, ["owl", "taxi"]), "--output", output, "--steps", "60", "--workers", "1",
                 "--slots", "1", "--protocol", few_pictures(tmp_path)]  # fmt: skip
    command = [sys.executable, str(ROOT / "jobs" / "invert_all.py"), *map(str, arguments)]
    driver = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + PATIENCE

    def wait_for(condition: Callable[[], object]) -> None:
        while not condition():
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.1)

    def in_training() -> bool:
        progress = output / "progress.json"
        return progress.exists() and json.loads(progress.read_text())["running"] > 0

    wait_for(in_training)
    (victim,) = workers_of(driver)
    assert not list(committed.glob("*.json"))
    victim.kill()
    wait_for(lambda: list(committed.glob("*.json")))
    family = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGKILL)
    for process in family:
        if process.is_running():
            process.kill()
    driver.wait()
    before = {path.name: path.read_bytes() for path in committed.iterdir()}
    ended = job(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{2 - len(before)} of 2 concepts; {len(before)} are done" in ended.stdout
    for name, marker in before.items():
        assert (committed / name).read_bytes() == marker
    assert sorted(table(output, "embeddings")["concept"]) == ["owl", "taxi"]


def test_a_run_whose_manifest_images_and_output_are_in_s3(bucket: Bucket, tmp_path: Path) -> None:
    store = Storage(bucket.url, bucket.options)
    for picture in sorted((DEMO / "images" / "owl").iterdir()):
        store.write_bytes(f"pictures/owl/{picture.name}", picture.read_bytes())
    store.write_bytes("manifest.csv", b"concept,images\nowl,pictures/owl\n")
    option = ("--storage-option", f"endpoint_url={bucket.endpoint}")
    ended = job(
        f"{bucket.url}/manifest.csv",
        "--output",
        f"{bucket.url}/run",
        *QUICKLY,
        *option,
        "--protocol",
        few_pictures(tmp_path),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = store.find("run")
    (part,) = [path for path in written if path.startswith("embeddings/")]
    assert pd.read_parquet(io.BytesIO(store.read_bytes(f"run/{part}")))["concept"].tolist() == ["owl"]
    assert {"words/owl.safetensors", "grids/owl.png", "report/index.html", "run.json"} <= set(written)
