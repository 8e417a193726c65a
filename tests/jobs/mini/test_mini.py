"""The shipped model: that it loads with the public libraries as it is, and that it can learn real words."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline

from eval.judges.clip import load_clip
from jobs.mini.recipe import things
from pipeline.inputs.image_sets import load_images
from pipeline.models.find import MINI_FOLDER
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings
from pipeline.training.inversion import InversionError, new_slot, train_step

MINI = MINI_FOLDER.parent
DEMO = Path(__file__).parents[3] / "jobs" / "demo" / "images"


def test_all_weights_together_stay_under_forty_megabytes_and_none_is_pickled() -> None:
    files = [path for folder in ("model", "clip") for path in (MINI / folder).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def test_diffusers_loads_the_model_and_draws_with_it_as_it_is() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(MINI_FOLDER)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a photo of a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.size == (64, 64)


def test_open_clip_loads_the_clip_as_it_is() -> None:
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{MINI / 'clip'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{MINI / 'clip'}")(["a photo of a cat"])
    assert tokens.shape == (1, 32)
    assert model.encode_text(tokens).shape == (1, 128)


def test_the_generator_has_not_been_taught_the_demo_things() -> None:
    held_out = {name.replace(" ", "-") for name in things.held_out_things()}
    shown = {folder.name for folder in DEMO.iterdir()} - {"blueprint", "duotone"}
    individuals = {name for name in shown if name.startswith("my-")}
    assert len(individuals) == 6
    assert shown - individuals <= held_out
    assert {name.removeprefix("my-") for name in individuals} <= set(things.training_things()), "of kinds it knows"
    assert not held_out & {name.replace(" ", "-") for name in things.training_things()}


def test_words_learned_with_the_defaults_show_their_own_concept() -> None:
    """Would catch a trainer, a sampler or weights that run without learning anything."""
    backbone, clip = load_backbone("mini"), load_clip()
    names = ("christmas-tree", "taxi")
    pixels = [load_images([str(path) for path in sorted((DEMO / name).iterdir())], 64).pixels for name in names]
    training = [clip.encode_images(list(some)) for some in pixels]
    slots = [
        new_slot(Concept(name, (), f"<{name}>"), some, backbone, InversionSettings())
        for name, some in zip(names, pixels, strict=True)
    ]
    words: dict[str, Word] = {}
    while slots:
        for slot, end in train_step(backbone, slots):
            if isinstance(end, InversionError):
                raise end
            words[slot.concept.name] = end
            slots.remove(slot)

    def likeness(name: str, *, trained: bool) -> np.ndarray:
        """Mean cosine of four pictures of the word to the training images of (christmas-tree, taxi)."""
        vectors = words[name].vectors if trained else words[name].initial
        drawn = sample(backbone, [f"a photo of <{name}>"] * 4, range(4), {f"<{name}>": vectors}, SamplerSettings())
        features = clip.encode_images(list(drawn))
        return np.array([(features @ some.T).mean() for some in training])

    for index, name in enumerate(names):
        learned = likeness(name, trained=True)
        assert learned[index] > learned[1 - index], "nearest to its own concept"
        assert learned[index] > likeness(name, trained=False)[index] + 0.1


@pytest.mark.parametrize("name", ["cat", "pizza", "car"])
def test_a_known_thing_is_one_word_of_the_vocabulary(name: str) -> None:
    with pytest.raises(ValueError, match="already is a word"):
        load_backbone("mini").refuse_placeholder(name)
