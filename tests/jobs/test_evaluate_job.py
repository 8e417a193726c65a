"""What jobs/evaluate.py refuses before it starts anything, and how it says what a night came to."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.session import Session
from eval.nightly.gate import Change, Comparison
from eval.nightly.history import CanaryReading, Verdict
from eval.scores.summary import Estimate
from jobs import generate, invert_all
from jobs.application.evaluation import open_run, refuse_doubles, said_of
from jobs.application.requests import EvaluationRequest
from jobs.evaluate import CUT_SHORT, NOT_STARTED, main
from pipeline.models.find import MINI_FOLDER, find_model
from pipeline.records import Failure
from pipeline.settings import ModelSettings
from pipeline.store.storage import StorageError
from tests.job_process import LEARNED, FinishedRun, write_manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with nothing in it but what it was made by."""
    folder = tmp_path / "run"
    folder.mkdir()
    made = {"model": "mini", "model_digest": find_model("mini").digest, "clip": "mini", "protocol": "quick-v1",
            "model_settings": {}, "settings": {"seed": 0, "resolution": None}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(made))
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--protocol", "papre"), "protocol 'papre': there is no such file"),
        (("--night", "../n"), "--night '../n'"),
        (("--fail-on-drop", "2"), "--fail-on-drop 2.0: it takes a similarity between 0 and 1"),
        (("--until-ci", "2"), "--until-ci 2.0: it takes half the width of an interval"),
        (("--clip", "nowhere"), "there is no CLIP named 'nowhere'"),
        (("--dino", "timm:no_such:x"), "must be timm:ARCHITECTURE:FILE"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_with_what_would_be_right(
    arguments: tuple[str, str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), *arguments]) == NOT_STARTED
    assert said in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({"clip": "local-dir:/tmp/evil"}, "--clip local-dir:/tmp/evil"),
        ({"clip": "timm:vit_small_patch16_224.dino:/tmp/evil"}, "--clip timm:"),
        ({"clip": "hf-hub:somebody/evil"}, "--clip hf-hub:somebody/evil"),
        ({"clip": ["mini"]}, "names \"['mini']\" for --clip"),
        ({"model": "/tmp/evil"}, "--model /tmp/evil"),
        ({"model": "s3://somebody/evil"}, "--model s3://somebody/evil"),
        ({"model": "somebody/evil"}, "--model somebody/evil"),
    ],
)
def test_what_only_the_run_folder_names_is_not_loaded(
    recorded: dict[str, object], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a stranger's run.json that has his files opened, or fetched, by whoever scores or draws his words."""
    made = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**made, **recorded}))
    assert main([str(run)]) == NOT_STARTED
    told = capsys.readouterr().err
    assert f"{run}/run.json names" in told
    assert said in told
    if "model" in recorded:
        assert generate.main([str(run), "--prompt", "a photo"]) == generate.NOT_STARTED
        assert said in capsys.readouterr().err


def test_a_recorded_model_is_loaded_when_the_command_names_it(run: Path, epsilon_model: Path) -> None:
    made = json.loads((run / "run.json").read_text())
    elsewhere = {**made, "model": "s3://bucket/model", "model_digest": find_model(str(epsilon_model)).digest}
    (run / "run.json").write_text(json.dumps(elsewhere))
    opened = open_run(str(run), EvaluationRequest((str(run),), model=str(epsilon_model)))
    judgement = opened.judgement(Session(cpus=2, gpus=0, nodes=1, local=True, several_nodes=False), "mini")
    assert judgement.model == "s3://bucket/model", "what scores are compared by is the name they were recorded under"
    assert judgement.drawing is not None
    assert judgement.drawing.model == str(epsilon_model)


def test_words_of_other_weights_than_the_models_now_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a model replaced under its name, on which every word would mean something else."""
    made = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**made, "model_digest": "0" * 64}))
    assert main([str(run)]) == NOT_STARTED
    assert "learned on mini with weights 000000000000" in capsys.readouterr().err


CHANGES = {
    "scheduler/scheduler_config.json": ('"epsilon"', '"sample"'),
    "tokenizer/tokenizer_config.json": ('"model_max_length": ', '"model_max_length": 1'),
    "tokenizer/tokenizer.json": ('"version": "1.0"', '"version":  "1.0"'),
}


@pytest.mark.parametrize("file", CHANGES)
def test_words_of_another_scheduler_or_tokenizer_are_refused_in_one_sentence(
    file: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a tokenizer replaced beside the same weights, by which the sentences around a word mean something else."""
    model = Path(shutil.copytree(MINI_FOLDER, tmp_path / "model"))
    made = {**json.loads((run / "run.json").read_text()), "model": str(model)}
    (run / "run.json").write_text(json.dumps({**made, "model_config_digest": find_model(str(model)).config_digest}))
    old, new = CHANGES[file]
    before = (model / file).read_text(encoding="utf-8")
    assert old in before
    (model / file).write_text(before.replace(old, new), encoding="utf-8")
    manifest = write_manifest(tmp_path, ["owl"])
    for main_of, arguments in (
        (main, [str(run)]),
        (generate.main, [str(run), "--prompt", "a photo"]),
        (invert_all.main, [str(manifest), "--output", str(run)]),
    ):
        assert main_of([*arguments, "--model", str(model)]) == NOT_STARTED
        told = capsys.readouterr().err
        assert "with another scheduler or tokenizer" in told
        assert "or learn the words anew with another --output" in told
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_a_run_that_recorded_no_scheduler_and_a_rewritten_configuration_are_the_same_model(
    run: Path, tmp_path: Path
) -> None:
    """Catches run folders of older versions that cannot be scored any more, and a library's version that passes for a change."""
    open_run(str(run), EvaluationRequest((str(run),)))
    model = Path(shutil.copytree(MINI_FOLDER, tmp_path / "model"))
    path = model / "scheduler" / "scheduler_config.json"
    entries = json.loads(path.read_text(encoding="utf-8")) | {"_diffusers_version": "9.9"}
    path.write_text(json.dumps(dict(reversed(entries.items()))), encoding="utf-8")
    (model / "tokenizer" / "README.md").write_text("words", encoding="utf-8")
    assert find_model(str(model)).config_digest == find_model("mini").config_digest != ""


def test_words_are_drawn_again_by_a_model_that_is_held_as_it_was_in_training(run: Path) -> None:
    """Catches a night's pictures in another precision than the night before's."""
    made = json.loads((run / "run.json").read_text())
    held = {
        "dtype": "bfloat16",
        "text_encoder_dtype": "float32",
        "first_stage_dtype": "bfloat16",
        "offload_first_stage": True,
    }
    (run / "run.json").write_text(json.dumps({**made, "model_settings": held}))
    opened = open_run(str(run), EvaluationRequest((str(run),)))
    drawing = opened.judgement(Session(cpus=2, gpus=0, nodes=1, local=True, several_nodes=False), "mini").drawing
    assert drawing is not None
    assert asdict(drawing.settings) == asdict(ModelSettings()) | held


def test_runs_that_were_scored_differently_are_not_put_together(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    made = json.loads((run / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**made, "protocol": "paper-v1"}))
    assert main([str(run), str(other)]) == NOT_STARTED
    assert (
        "these runs differ in their protocol: paper-v1, quick-v1; choose one with --protocol" in capsys.readouterr().err
    )


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == NOT_STARTED
    assert "run.json" in capsys.readouterr().err


def test_a_concept_in_two_runs_of_one_night_is_named_before_anything_is_scored(
    finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches hours of drawing and scoring that end in "cannot be compared"."""

    def started(**_: object) -> None:
        raise AssertionError("Ray was asked")

    monkeypatch.setattr("ray.init", started)
    other = shutil.copytree(finished_run.folder, tmp_path / "other")
    assert main([str(finished_run.folder), str(other)]) == NOT_STARTED
    assert (
        f"{len(LEARNED)} concepts are in several of these runs, such as {', '.join(LEARNED)}" in capsys.readouterr().err
    )


def test_a_concept_in_two_runs_of_one_night_is_named() -> None:
    with pytest.raises(ValueError, match="1 concepts are in several of these runs, such as owl"):
        refuse_doubles(["owl", "taxi", "owl"])
    refuse_doubles(["owl", "taxi"])


def test_a_bad_night_is_told_on_one_screen() -> None:
    """Catches a thousand reasons that scroll the first of them away."""
    change = Change("owl", 0.7, 0.5)
    comparisons = (
        Comparison("reconstruction", "", 500, 0.7, 0.69, 1e-5, 0.004, True, (change,)),
        *(Comparison("reconstruction", f"g{n}", 20, 0.7, 0.6, 1e-5, 0.01, True, (change,)) for n in range(100)),
    )
    estimate = Estimate(0.69, 0.68, 0.7, 500)
    verdict = Verdict(
        "n2", False, 500, {"reconstruction": estimate}, "n1", 0.01, comparisons, CanaryReading("n1", 16, 0.0, math.nan),
        tuple(f"reason {n}" for n in range(101)),
    )  # fmt: skip
    said = said_of(verdict, [Failure(f"c{n}", "scoring", "no picture") for n in range(30)])
    assert len(said.splitlines()) <= 50
    assert "night     n2: NOT GOOD, against n1" in said
    assert "reconstruction: 0.7000 -> 0.6900 over 500 words learned again, p = 1e-05" in said
    assert "reason 0" in said
    assert "and 81 more, in the report" in said
    assert "and 10 more without a score" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            StorageError("scores/0.parquet: no space left"),
            "cut short by its storage; what is scored is kept, and the same command",
        ),
        (KeyboardInterrupt(), "cut short; what is scored is kept"),
        (RuntimeError("a task died"), "cut short by this error"),
    ],
)
def test_an_evaluation_that_ends_on_its_way_is_no_finished_one(
    error: BaseException, said: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches exit code 1, which says that all is scored but a few words."""

    def breaks(*_: object) -> None:
        raise error

    monkeypatch.setattr("jobs.evaluate.evaluate", breaks)
    assert main([str(run)]) == CUT_SHORT
    assert said in capsys.readouterr().err
