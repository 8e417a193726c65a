"""Image similarity without the background: by masks, by the shipped CLIP's own patches, and by a tiny DINOv2's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from eval.judges.background import PatchScorer, without_background
from eval.judges.clip import load_clip
from eval.judges.transformers_folder import load_transformers
from eval.scores.encoded import encode_concept
from eval.scores.scoring import score_concept
from pipeline.inputs.picture_file import decode_drawn, decode_drawn_mask
from pipeline.records import Sample, SampleKind
from pipeline.sampling.grid import encode_png
from tests.eval.judges.test_transformers_folder import save_tiny_judge

DEMO = Path(__file__).parents[3] / "jobs" / "demo" / "images"
GRASS, RED, BLUE = (90, 190, 70), (200, 30, 40), (40, 60, 220)


def disc(colour: tuple[int, int, int], ground: tuple[int, int, int] = (255, 255, 255), at: int = 32) -> Image.Image:
    picture = Image.new("RGB", (64, 64), ground)
    ImageDraw.Draw(picture).ellipse((at - 18, at - 18, at + 18, at + 18), fill=colour)
    return picture


def mask(at: int = 32) -> Image.Image:
    shape = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(shape).ellipse((at - 18, at - 18, at + 18, at + 18), fill=255)
    return shape


TRAINING = [disc(RED, at=30), disc(RED, at=34)]


def drawing(concept: str, number: int) -> Image.Image:
    path = sorted((DEMO / concept).iterdir())[number]
    return Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)


def shape_of(picture: Image.Image) -> Image.Image:
    """What is not connected with a corner."""
    filled = picture.copy()
    for corner in ((0, 0), (63, 0), (0, 63), (63, 63)):
        ImageDraw.floodfill(filled, corner, (255, 0, 255), thresh=30)
    return Image.fromarray(np.uint8(255) * (np.asarray(filled) != (255, 0, 255)).any(axis=-1))


def on_grass(picture: Image.Image) -> Image.Image:
    scene = Image.new("RGB", (64, 64), (150, 200, 235))
    ImageDraw.Draw(scene).rectangle((0, 38, 64, 64), fill=GRASS)
    scene.paste(picture, mask=shape_of(picture))
    return scene


@pytest.mark.parametrize("masked", [True, False], ids=["masks", "the judge alone"])
def test_a_background_that_alone_differs_costs_much_less(masked: bool) -> None:
    """Another ground costs a drawing more of its raw similarity than another thing would; what is left is what the judge's
    coarse patches keep of the ground.
    """
    judge = load_clip()
    assert isinstance(judge, PatchScorer)
    lost: list[float] = []
    raw_lost: list[float] = []
    for concept in ("my-teapot", "my-butterfly", "bus"):
        seen, drawn = [drawing(concept, 0), drawing(concept, 1)], [drawing(concept, 2), on_grass(drawing(concept, 2))]
        masks = [shape_of(each) if masked else None for each in seen]
        training, alone = without_background(seen, masks, drawn, judge)
        for features, of, into in (
            (alone, training, lost), (judge.encode_images(drawn), judge.encode_images(seen), raw_lost)
        ):  # fmt: skip
            same, elsewhere = (features @ of.T).mean(axis=1)
            into.append(same - elsewhere)
    assert min(raw_lost) > 0.2
    assert np.mean(lost) < 0.5 * np.mean(raw_lost)


def test_a_training_images_mask_takes_its_background_away_exactly() -> None:
    judge = load_clip()
    assert isinstance(judge, PatchScorer)
    on_white, _ = without_background(TRAINING, [mask(30), mask(34)], [], judge)
    on_grass, _ = without_background([disc(RED, GRASS, 30), disc(RED, GRASS, 34)], [mask(30), mask(34)], [], judge)
    np.testing.assert_allclose(on_grass, on_white, atol=1e-5)


def test_a_mask_is_kept_as_the_alpha_of_a_training_image_and_the_concept_is_scored_by_it() -> None:
    def samples(masked: bool) -> list[Sample]:
        training = [
            np.dstack([np.asarray(disc(RED, GRASS, at)), np.asarray(mask(at))])
            if masked
            else np.asarray(disc(RED, GRASS, at))
            for at in (30, 34)
        ]
        pngs = [encode_png(each) for each in training]
        assert all((decode_drawn_mask(each) is not None) == masked for each in pngs)
        np.testing.assert_array_equal(np.asarray(decode_drawn(pngs[0])), training[0][..., :3])
        return [
            *(Sample("x", "training", "", "", index, 0, png) for index, png in enumerate(pngs)),
            Sample("x", "reconstruction", "a <x>", "a", 0, 0, encode_png(np.asarray(disc(RED)))),
            Sample("x", "untrained", "a <x>", "a", 0, 0, encode_png(np.asarray(disc(BLUE)))),
        ]

    judge = load_clip()
    (masked,) = (
        each
        for each in score_concept(encode_concept(samples(True), judge), judge, np.random.default_rng(0))
        if each.metric == "masked_image_similarity"
    )
    raw = score_concept(encode_concept(samples(False), judge), judge, np.random.default_rng(0))[0]
    assert masked.value > raw.value + 0.1
    assert masked.floor < masked.value <= masked.ceiling + 1e-6


@pytest.mark.parametrize("masked", [True, False], ids=["masks", "the judge alone"])
def test_a_concept_in_a_new_scene_is_scored_without_the_scene(masked: bool) -> None:
    """Catches the plain prompt's pictures in place of the edits', and prompts that are mixed up."""
    seen, own, others = [drawing("my-teapot", 0), drawing("my-teapot", 1)], drawing("my-teapot", 2), drawing("bus", 0)
    training = [
        np.dstack([np.asarray(each), np.asarray(shape_of(each))]) if masked else np.asarray(each) for each in seen
    ]
    grass, lawn = "a <x> on the grass", "the <x> on a lawn"
    drawn: tuple[tuple[SampleKind, str, Image.Image], ...] = (
        ("reconstruction", "a <x>", own), ("untrained", "a <x>", others), ("noun", "a <x>", others),
        ("edit", grass, on_grass(own)), ("untrained", grass, on_grass(others)),
        ("edit", lawn, on_grass(others)), ("untrained", lawn, on_grass(own)),
    )  # fmt: skip
    samples = [
        *(Sample("x", "training", "", "", index, 0, encode_png(each)) for index, each in enumerate(training)),
        *(
            Sample("x", kind, prompt, prompt.replace(" <x>", ""), 0, 0, encode_png(np.asarray(picture)))
            for kind, prompt, picture in drawn
        ),
    ]
    judge = load_clip()
    scores = score_concept(encode_concept(samples, judge), judge, np.random.default_rng(0))
    alone = {each.prompt: each for each in scores if each.metric == "masked_subject_fidelity"}
    assert set(alone) == {grass, lawn}
    assert alone[grass].value == pytest.approx(alone[lawn].floor)
    assert alone[grass].value > alone[grass].floor + 0.1
    assert alone[lawn].value == pytest.approx(alone[grass].floor)
    (raw,) = (each for each in scores if each.metric == "subject_fidelity")
    assert raw.value == pytest.approx(raw.floor)
    assert (alone[grass].value + alone[lawn].value) / 2 > raw.value


def test_the_patches_of_a_dino_are_in_their_places(tmp_path: Path) -> None:
    """The patch that differs between two pictures is the one whose features differ most."""
    torch.set_num_threads(1)
    judge = load_transformers(f"transformers:{save_tiny_judge(tmp_path, 'dinov2_with_registers')}")
    assert isinstance(judge, PatchScorer)
    plain = np.full((32, 32, 3), 128, np.uint8)
    touched = plain.copy()
    touched[8:16, 24:32] = (255, 0, 0)
    one, other = judge.encode_patches([plain, touched])
    assert one.shape == (4, 4, 32)
    changed = 1 - (one * other).sum(axis=-1)
    assert np.unravel_index(changed.argmax(), changed.shape) == (1, 3)
