"""The judge of outlines: that it sees shapes in whatever colours, and agrees with the eye more often than the shipped CLIP does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from eval.judges.clip import load_clip
from eval.judges.judge import load_scorer
from eval.judges.outline import WEIGHTS, WIDTH, OutlineScorer
from eval.scores.score_run import Judgement
from jobs.mini.judge_agreement import agreement, read_order
from pipeline.models.find import MINI_FOLDER
from pipeline.protocols import QUICK
from tests.job_process import DEMO


@pytest.fixture(scope="module")
def judge() -> OutlineScorer:
    return OutlineScorer()


def picture(name: str, number: str = "1.png") -> np.ndarray:
    opened = Image.open(DEMO / "images" / name / number).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened).convert("RGB"))


def test_features_have_length_one_for_pictures_of_any_size_and_none(judge: OutlineScorer) -> None:
    found = judge.encode_images([picture("owl"), np.zeros((5, 9, 3), np.uint8), Image.new("L", (300, 200))])
    assert found.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert judge.encode_images([]).shape == (0, WIDTH)


@pytest.mark.parametrize("thing", ["my-butterfly", "my-teapot", "my-shoe"])
def test_a_thing_in_other_colours_is_more_alike_than_a_patch_of_its_own(judge: OutlineScorer, thing: str) -> None:
    """Catches a judge of colours: the patch has the thing's mean colour, on the same white."""
    own = picture(thing)
    inside = own.min(2) < 240
    patch = Image.new("RGB", own.shape[1::-1], "white")
    ImageDraw.Draw(patch).ellipse((40, 50, 216, 206), fill=tuple(int(value) for value in own[inside].mean(0)))
    alike = judge.encode_images([own, own[..., [1, 2, 0]], patch])
    assert alike[0] @ alike[1] > alike[0] @ alike[2] + 0.2


def test_it_agrees_with_the_eye_more_often_than_the_clip(judge: OutlineScorer) -> None:
    """Catches weights that were not fitted, and a front end that is not the one of their training."""
    outline, clip = agreement(judge), agreement(load_clip())
    assert len(outline) == len(read_order()) == 81
    assert np.mean(outline) > 0.85
    assert np.mean(outline) > np.mean(clip) + 0.15
    # The pairs that were ordered before the judge was chosen.
    assert np.mean(outline[:41]) > 0.8
    assert np.mean(outline[:41]) > np.mean(clip[:41]) + 0.2


def test_it_is_a_judge_by_name_that_reads_no_texts() -> None:
    assert load_scorer("outline").name == "outline"
    assert not Judgement(QUICK, "mini", "0", "outline").reads_texts
    assert Path(WEIGHTS).stat().st_size < 4e6
    assert sum(path.stat().st_size for path in MINI_FOLDER.parent.rglob("*") if path.is_file()) < 40e6
