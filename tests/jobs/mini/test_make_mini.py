"""The stages of `make mini --device cuda`, on a CPU, few scenes and few steps: what a GPU does, but for its speed."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from jobs.mini import make_mini
from jobs.mini.make_mini import SIZES, STAGES, draw_pool
from jobs.mini.recipe import scenes, things
from jobs.mini.recipe.art import ART_SETS, Art
from jobs.mini.recipe.loop import Schedule
from pipeline.models.find import find_model
from pipeline.models.load import load_backbone
from pipeline.models.start_encoder import load_start_encoder

NAMES = things.training_things()[:3]
ART = Art(NAMES, np.random.default_rng(0).integers(0, 256, (3, len(ART_SETS), 16, 16, 4), np.uint8))


def test_as_many_processes_as_one_likes_draw_the_same_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches chunks that are drawn twice, and a recipe that depends on the machine."""
    monkeypatch.setattr(make_mini, "CHUNK", 3)
    draw = functools.partial(scenes.sample_scenes, art=ART, names=NAMES)
    one, two = draw_pool(draw, 8, 1, processes=1), draw_pool(draw, 8, 1, processes=2)
    np.testing.assert_array_equal(one.pictures, two.pictures)
    assert (one.scenes, one.captions) == (two.scenes, two.captions)
    assert len(one.scenes) == 8
    assert len({picture.tobytes() for picture in one.pictures}) == 8


@pytest.mark.long
def test_the_stages_for_a_gpu_make_a_model_that_loads_and_whose_start_encoder_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a stage that needs what no stage before it has made, and a start encoder left from other weights."""
    (work := tmp_path / "work").joinpath("art").mkdir(parents=True)
    every = np.random.default_rng(1).integers(0, 256, (len(things.things()), len(ART_SETS), 16, 16, 4), np.uint8)
    np.savez(work / "art" / "sprites.npz", sprites=every)
    names = np.array([f"stranger {number}" for number in range(40)])
    np.savez(work / "art" / "unnamed.npz", names=names, sprites=every[:40].repeat(6, 2).repeat(6, 3))
    icons = np.array([f"icon {number}" for number in range(20)])
    np.savez(work / "art" / "shapes.npz", names=icons, sprites=every[40:60, :1].repeat(6, 2).repeat(6, 3))
    size = replace(SIZES["cuda"], scenes=(12, 12, 12, 12), batch=4, unet=Schedule(2, 1e-3, warmup=1))
    shipped = make_mini.SHIPPED
    for stage in size.stages:
        monkeypatch.setattr(make_mini, "SHIPPED", tmp_path / "made" if stage == "publish" else shipped)
        if stage == "publish":
            monkeypatch.setattr("pipeline.models.find.MINI_FOLDER", tmp_path / "made" / "model")
        STAGES[stage](work, "cpu", size)
    folder = tmp_path / "made" / "model"
    assert json.loads((folder / "unet" / "config.json").read_text())["block_out_channels"] == [64, 128, 224]
    assert UNet2DConditionModel.from_pretrained(folder / "unet").num_parameters() > 13e6
    made = find_model(str(folder))
    assert made.digest != find_model("mini").digest or made.folder == find_model("mini").folder
    assert load_start_encoder(made).maps.keys() == {"text_encoder"}
    assert load_backbone(str(folder)).resolution == 64
