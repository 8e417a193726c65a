"""sampler.py beside diffusers' own pipeline: the same seed, prompt, sampler and words draw the same picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from pipeline.models.base import Backbone, PromptError
from pipeline.models.load import load_backbone
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.store.word_files import encode_word
from tests.tiny_model import PIXELS, WIDTH, load_pipeline

Words = Mapping[str, Mapping[str, np.ndarray]]
THEIRS = {"ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler", "euler": "EulerDiscreteScheduler"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    return load_backbone(str(epsilon_model))


def word(count: int) -> Mapping[str, np.ndarray]:
    return {"text_encoder": np.random.default_rng(count).normal(scale=0.03, size=(count, WIDTH)).astype(np.float32)}


ONE, THREE = {"<my-cat>": word(1)}, {"<truck>": word(3)}
NO_WORDS: Words = {}


def drawn_by_diffusers(
    folder: Path, prompt: str, seed: int, words: Words, settings: SamplerSettings, scratch: Path
) -> np.ndarray:
    theirs = load_pipeline(folder)
    # As Stable Diffusion's own scheduler folder says, and the tiny model's does not.
    unclipped = {"clip_sample": False} if settings.sampler == "ddim" else {}
    theirs.scheduler = getattr(diffusers, THEIRS[settings.sampler]).from_config(theirs.scheduler.config, **unclipped)
    for placeholder, vectors in words.items():
        file = scratch / "word.safetensors"
        file.write_bytes(encode_word(placeholder, vectors))
        theirs.load_textual_inversion(file)
    (picture,) = theirs(
        prompt, num_inference_steps=settings.steps, guidance_scale=settings.guidance,
        generator=torch.Generator().manual_seed(seed),
    ).images  # fmt: skip
    return np.asarray(picture)


def difference(one: np.ndarray, other: np.ndarray) -> int:
    """Of the two grey levels that are furthest apart."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("sampler", sorted(THEIRS))
@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a photo of a cat", NO_WORDS),
        ("", NO_WORDS),
        ("a photo of <my-cat> at night", ONE),
        ("a dark painting of <truck>, on the beach", THREE),
        ("<my-cat> and <truck>", ONE | THREE),
    ],
    ids=["plain", "empty", "a word", "a word of three vectors", "two words"],
)
def test_diffusers_draws_the_same_picture(
    prompt: str, words: Words, sampler: str, either_model: Path, tmp_path: Path
) -> None:
    """Catches words that look right only here: another initial noise, schedule, guidance, padding or token order."""
    settings = SamplerSettings(sampler, steps=6, guidance=5.0)
    (ours,) = sample(load_backbone(str(either_model)), [prompt], [7], words, settings)
    theirs = drawn_by_diffusers(either_model, prompt, 7, words, settings, tmp_path)
    assert ours.shape == (PIXELS, PIXELS, 3)
    assert ours.std() > 5
    assert difference(ours, theirs) <= 1


def test_what_the_comparison_has_to_see_changes_the_picture(backbone: Backbone) -> None:
    """Catches a tiny model so dull that the test above would pass whatever the word."""
    settings = SamplerSettings(steps=6)
    prompt = "a photo of <my-cat> at night"

    def draw(seed: int = 7, words: Words = ONE, settings: SamplerSettings = settings, text: str = prompt) -> np.ndarray:
        return sample(backbone, [text], [seed], words, settings)

    first = draw()
    for other in (
        draw(seed=8),
        draw(words={"<my-cat>": word(2)}),
        draw(words=NO_WORDS),
        draw(settings=SamplerSettings("ddim", steps=6)),
        draw(settings=SamplerSettings(steps=6, guidance=4.0)),
        draw(settings=SamplerSettings(steps=7)),
        draw(text="a photo of <my-cat> on the beach"),
    ):
        assert difference(first, other) > 4


def test_a_guidance_of_one_is_the_prompt_alone(epsilon_model: Path, backbone: Backbone, tmp_path: Path) -> None:
    settings = SamplerSettings("ddim", steps=4, guidance=1.0)
    (ours,) = sample(backbone, ["a photo of a cat"], [3], NO_WORDS, settings)
    theirs = drawn_by_diffusers(epsilon_model, "a photo of a cat", 3, NO_WORDS, settings, tmp_path)
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_picture_does_not_depend_on_what_it_is_drawn_beside(batch: int, backbone: Backbone) -> None:
    """Catches noise drawn for the batch as a whole, and words looked up in a neighbour's rows."""
    words = ONE | THREE
    prompts = ["a photo of <truck>", "a cat", "<my-cat> and <truck>", "", "a photo of <my-cat>"]
    together = sample(backbone, prompts, [1, 2, 3, 4, 4], words, SamplerSettings(steps=4, batch=batch))

    def alone(index: int, seeds: Sequence[int] = (1, 2, 3, 4, 4)) -> np.ndarray:
        return sample(backbone, [prompts[index]], [seeds[index]], words, SamplerSettings(steps=4))[0]

    assert len(together) == len(prompts)
    for index, picture in enumerate(together):
        assert difference(picture, alone(index)) <= 1


def test_an_unknown_sampler_is_refused_with_the_choice(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"sampler 'plms' is not known; choose ddim, dpm\+\+, euler"):
        sample(backbone, ["a cat"], [0], NO_WORDS, SamplerSettings("plms"))


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_drawn(backbone: Backbone) -> None:
    with pytest.raises(PromptError, match="shorten it"):
        sample(backbone, ["a cat " * 20], [0], NO_WORDS, SamplerSettings(steps=1))


def test_on_the_shipped_model_ddim_and_the_others_draw_the_same_scene() -> None:
    """Catches latents cut off at one, as DDIM does by itself: a red car on the grass became a yellow blot."""
    mini = load_backbone("mini")
    drawn = {
        sampler: sample(mini, ["a photo of a red car on the grass"], [2], NO_WORDS, SamplerSettings(sampler, 20))[0]
        for sampler in THEIRS
    }
    for sampler in ("ddim", "euler"):
        assert np.abs(drawn[sampler].astype(int) - drawn["dpm++"].astype(int)).mean() < 20, sampler
