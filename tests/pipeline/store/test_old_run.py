"""A run folder that an older version made (old_run/, by commit 3d072bf) is found done, and each file of it is understood.

Two words of two pictures with a caption each, and one concept that failed. Its model and judge are digests of no real
model, so that it outlives them.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.scores.score_tables import SCORES, ScoredUnder, made_under, scores_of
from jobs.application.recorded import refuse_changed_since
from pipeline.models.find import Model
from pipeline.protocols import Protocol
from pipeline.records import Concept
from pipeline.scheduling.planning import plan
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.parts import create_layout, read_layout, read_parts
from pipeline.store.publish import publish
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS, FAILURES, SAMPLES, samples_of
from pipeline.store.storage import Storage
from pipeline.store.word_files import decode_word

MADE = Path(__file__).parent / "old_run"
MODEL = Model("mini", Path("/no/model"), "StableDiffusionPipeline", "a" * 64)
UNDER = ScoredUnder("quick-v1", "mini", MODEL.digest, "mini", "b" * 64, "dpm++", 20, 5.0)
DONE = {
    "cat": "97c78300dac6a708bb3cf0acd863df91045a06a9024a2ac5ad66e0526b15ecce",
    "truck": "c13649056d282ecb532d0f892935fb3cfd40eae91bc08f6129c0c903a0738223",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Storage(str(shutil.copytree(MADE / "run", tmp_path / "run"))))


@pytest.fixture
def concepts() -> list[Concept]:
    images = {name: (str(MADE / "images" / name),) for name in ("cat", "truck", "lost")}
    return [
        Concept("cat", images["cat"], "<cat>", initializer="tabby cat", noun="cat", carried={"shop": "north"}),
        Concept("truck", images["truck"], "<truck>", initializer="fire truck", noun="truck", vectors=2),
        Concept("lost", images["lost"], "<lost>"),
    ]


def test_an_old_run_has_nothing_left_to_do(run: RunFolder, concepts: list[Concept]) -> None:
    """Catches a fingerprint, a marker or a name in the run folder that changed: every word would be learned again."""
    made = run.read_json("run.json")
    settings = InversionSettings(**{**made["settings"], "templates": tuple(made["settings"]["templates"])})
    precision = ModelSettings(**made["model_settings"]).label
    found = plan(concepts, run, MODEL, precision, settings, {})
    assert found.left == ()
    assert found.done == DONE
    assert [(each.concept, each.stage) for each in found.failed] == [("lost", "images")]


def test_an_old_run_names_no_scheduler_and_takes_any(run: RunFolder) -> None:
    """Catches a digest that older versions did not record and that every old folder would be refused for."""
    refuse_changed_since(run, replace(MODEL, digest=run.read_json("run.json")["model_digest"], config_digest="c" * 64))


def test_publishing_an_old_run_again_changes_nothing(run: RunFolder) -> None:
    before = {path: run.storage.read_bytes(path) for path in run.storage.find() if not path.startswith("_")}
    assert publish(run, DONE, create_layout(run, 3)) == ()
    assert {path: run.storage.read_bytes(path) for path in before} == before


def test_the_tables_of_an_old_run_are_read(run: RunFolder) -> None:
    parts = read_layout(run)
    embeddings = read_parts(run, "embeddings", parts["embeddings"], EMBEDDINGS).to_pylist()
    assert {row["concept"]: row["fingerprint"] for row in embeddings} == DONE
    assert [len(row["vectors"]) for row in embeddings] == [1, 2]
    samples = samples_of(read_parts(run, "samples", parts["samples"], SAMPLES))
    assert {each.kind for each in samples} == {"training", "reconstruction", "edit", "untrained"}
    scores = scores_of(made_under(read_parts(run, "scores", parts["scores"], SCORES), UNDER))
    assert {each.concept for each in scores} == set(DONE)
    assert read_parts(run, "failures", 1, FAILURES)["concept"].to_pylist() == ["lost"]


def test_the_words_checkpoints_and_protocol_of_an_old_run_are_read(run: RunFolder) -> None:
    name, vectors = decode_word(run.storage.read_bytes(run.word_path("truck")))
    assert (name, vectors["text_encoder"].shape) == ("<truck>", (2, 8))
    checkpoint = run.checkpoint("cat")
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.losses) == (4, (1.0, 0.5))
    assert np.array_equal(checkpoint.second_moments["text_encoder"], np.full((1, 8), 3, np.float32))
    assert Protocol.of_dict(run.read_json("run.json")["protocol_settings"]).label == "quick-v1"
