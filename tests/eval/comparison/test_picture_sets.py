"""Words of fewer pictures: which pictures they are, the manifest that says so, and what their words are compared with."""

from pathlib import Path

import numpy as np
import pytest
import torch

import eval.judges.judge
import eval.scores.score_run
from eval.comparison.picture_sets import manifest_of, picture_set, similarity_to_all
from eval.comparison.variants import SETS
from eval.scores.confusion import FEATURES
from eval.scores.drawn_pictures import RunModel
from eval.scores.score_run import Judgement
from pipeline.inputs.manifest import read_manifest
from pipeline.settings import ModelSettings
from pipeline.store.parts import part_path, read_parts, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import Storage
from tests.tiny_run import NAMES, PROTOCOL, Colours, concept, evaluate, learn


@pytest.fixture
def base(epsilon_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    torch.set_num_threads(1)
    for module in (eval.judges.judge, eval.scores.score_run):
        monkeypatch.setattr(module, "load_scorer", lambda name, device: Colours())
    run = RunFolder(Storage(str(tmp_path / "base")))
    learn(run, epsilon_model, dict.fromkeys(NAMES, 1))
    drawing = RunModel(str(epsilon_model), "cpu", ModelSettings(), seed=0)
    evaluate(run, Judgement(PROTOCOL, "tiny", "m0", "colours", "cpu", drawing))
    return run


def test_a_set_has_so_many_pictures_and_a_concept_without_them_is_left_out(base: RunFolder, tmp_path: Path) -> None:
    assert picture_set(base, 1, curated=False) == {name: ["a"] for name in NAMES}
    assert picture_set(base, 3, curated=False) == {}
    sets = {"ant": [str(tmp_path / "a b.png")]}
    concepts = [concept(name) for name in NAMES]
    (tmp_path / "set.csv").write_bytes(manifest_of(concepts, sets))
    (read,) = read_manifest(str(tmp_path / "set.csv")).concepts
    assert (read.name, read.images, read.noun, read.carried) == (
        "ant",
        (str(tmp_path / "a b.png"),),
        "cat",
        {"shop": "north"},
    )


def test_curation_takes_the_pictures_that_are_most_like_the_others(base: RunFolder) -> None:
    """Catches an odd one out that is kept because it is the first."""
    rows = read_parts(base, "features", 1, FEATURES)
    odd = np.array([[1, 0, 0], [0, 1, 0], [0, 0.9, np.sqrt(1 - 0.81)]], np.float32)
    told = [{**row, "pictures": odd.tolist()} for row in rows.to_pylist()]
    embeddings = read_parts(base, "embeddings", 1, EMBEDDINGS)
    images = [{**row, "images": ["odd", "x", "y"]} for row in embeddings.to_pylist()]
    write_table(base, part_path("features", 0, 1), rows.from_pylist(told, FEATURES))
    write_table(base, part_path("embeddings", 0, 1), embeddings.from_pylist(images, EMBEDDINGS))
    assert set(map(tuple, picture_set(base, 2, curated=True).values())) == {("x", "y")}
    assert set(map(tuple, picture_set(base, 2, curated=False).values())) == {("odd", "x")}


def test_a_word_of_one_picture_is_compared_with_all_of_its_concepts(base: RunFolder) -> None:
    rows = {row["concept"]: row for row in read_parts(base, "features", 1, FEATURES).to_pylist()}
    for name, value in similarity_to_all(base, base).items():
        pairs = np.array(rows[name]["samples"]) @ np.array(rows[name]["pictures"]).T
        assert value == pytest.approx(pairs.mean(), abs=1e-6)
    assert {each.pictures for each in SETS} == {1, 2, 3, 5, 10, 25}
