"""The scores' scale on the shipped model: what is better to the eye has the higher score; and no picture reaches the driver."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from eval.judges.clip import load_clip
from eval.scores.confusion import features_of
from eval.scores.encoded import encode_concept
from eval.scores.metrics import covered
from eval.scores.scoring import score_concept
from pipeline.models.load import load_backbone
from pipeline.protocols import QUICK
from pipeline.records import Concept
from pipeline.sampling.pictures_of_a_word import draw_concept
from pipeline.store.run_tables import samples_of

ROOT = Path(__file__).parents[2]
NAMES = ("bus", "my-butterfly", "owl", "taxi")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four words of the demo, learned as the demo learns them."""
    folder = tmp_path_factory.mktemp("scale")
    images = ROOT / "jobs" / "demo" / "images"
    manifest = folder / "manifest.csv"
    rows = [f"{name},{images / name},{name.removeprefix('my-') * name.startswith('my-')}" for name in NAMES]
    manifest.write_text("\n".join(["concept,images,class", *rows]) + "\n")
    command = [sys.executable, "jobs/invert_all.py", str(manifest), "--output", str(folder / "run")]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=280, stdout=subprocess.DEVNULL).returncode == 0
    return folder / "run"


@pytest.mark.long
def test_real_pictures_score_above_drawn_ones_and_those_above_untrained_ones(learned: Path) -> None:
    scores = pq.read_table(learned / "scores").to_pylist()
    plain = [row for row in scores if row["metric"] == "image_similarity"]
    assert len(plain) == len(NAMES)
    mean = {
        column: np.mean([row[column] for row in plain]) for column in ("ceiling", "value", "floor", "floor_wordless")
    }
    assert mean["ceiling"] > mean["value"] > max(mean["floor"], mean["floor_wordless"]) + 0.1


@pytest.mark.long
def test_pictures_of_a_word_are_nearest_to_its_own_concept(learned: Path) -> None:
    """The confusion matrix: its diagonal holds each row's largest, and most pictures."""
    summary = json.loads((learned / "report" / "summary.json").read_text())["confusion"]
    assert summary["concepts"] == len(NAMES)
    assert summary["nearest_own"] > 0.6 > 2 * summary["chance"]
    features = features_of(pq.read_table(learned / "features"))
    matrix = np.array([[(features[one].samples @ features[other].training).mean() for other in NAMES] for one in NAMES])
    assert (matrix.argmax(axis=1) == np.arange(len(NAMES))).all(), matrix.round(2)


@pytest.mark.long
def test_words_shuffled_over_the_concepts_score_near_the_floor(learned: Path) -> None:
    """Catches a score that any well-drawn picture gets, whatever it was to show."""
    backbone, clip = load_backbone("mini"), load_clip()
    rows = pq.read_table(learned / "embeddings").to_pylist()
    words = {row["concept"]: {row["text_encoder"]: np.array(row["vectors"], np.float32)} for row in rows}
    training = [each for each in samples_of(pq.read_table(learned / "samples")) if each.kind == "training"]
    right: list[float] = []
    shuffled: list[float] = []
    for place, name in enumerate(NAMES):
        own = [each for each in training if each.concept == name]
        for word, found in ((name, right), (NAMES[place - 1], shuffled)):
            drawn = draw_concept(backbone, Concept(name, (), f"<{name}>"), words[word], QUICK, seed=0)
            score = score_concept(encode_concept([*own, *drawn], clip), clip, np.random.default_rng(0))[0]
            found.append(covered(score.value, score.floor, score.ceiling))
    assert not any(math.isnan(each) for each in right)
    assert np.mean(shuffled) < 0.4 < 0.7 < np.mean(right), (shuffled, right)


@pytest.mark.long
def test_the_driver_does_not_grow_with_the_pictures_that_are_scored(tmp_path: Path) -> None:
    """Catches images, or features, that come back to the driver: of 100,000 concepts they are terabytes."""
    grown = {}
    for count in (128, 1536):
        command = [sys.executable, "-W", "ignore", "-m", "tests.scored_run", str(tmp_path / str(count)), str(count)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=True)
        grown[count] = json.loads(ended.stdout.splitlines()[-1])
    assert grown[1536]["pictures_mb"] > 200
    assert grown[1536]["driver_mb"] - grown[128]["driver_mb"] < 30, grown
