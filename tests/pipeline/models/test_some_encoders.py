"""A word that some of a model's text encoders know: learned there alone, drawn as diffusers draws it, refused by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load

from pipeline.models.base import Backbone, alias
from pipeline.models.families import FAMILIES, family_of
from pipeline.models.load import load_backbone
from pipeline.protocols import PROTOCOLS
from pipeline.records import Concept, Word
from pipeline.sampling.pictures_of_a_word import draw_pictures, wanted_of
from pipeline.sampling.prompting import requests_for
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings
from pipeline.store.word_files import decode_word, encode_word, suited
from pipeline.training.inversion import new_slot, train_step
from tests import their_transformers as diffusers_own
from tests.pipeline.models.test_transformer_families import difference
from tests.tiny_model import SECOND_WIDTH, WIDTH, load_pipeline
from tests.tiny_transformers import save_tiny

SIDE = 16
SETTINGS = InversionSettings(steps=2, early_stop="off", batch_size=2, learning_rate=5e-2)
TRUCK = Concept("truck", (), "<truck>", initializer="fire truck", vectors=2)
PICTURES = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("sd3", tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("flux", tmp_path_factory.mktemp("flux"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learn(ours: Backbone, encoders: Sequence[str]) -> Word:
    slot = new_slot(TRUCK, PICTURES, ours, InversionSettings(**{**SETTINGS.as_dict(), "encoders": tuple(encoders)}))
    while not (ended := train_step(ours, [slot])):
        pass
    ((_, word),) = ended
    assert isinstance(word, Word)
    return word


@pytest.mark.parametrize("encoders", [("clip_l",), ("t5",), ("clip_l", "t5")], ids="+".join)
def test_a_word_is_learned_in_the_text_encoders_that_are_named(encoders: tuple[str, ...], sd3: Path) -> None:
    """Catches an option that is parsed and not obeyed."""
    ours = load_backbone(str(sd3))
    word = learn(ours, encoders)
    assert {ours.word_keys[name] for name in word.vectors} == set(encoders)
    assert word.vectors.keys() == word.initial.keys()
    for name, vectors in word.vectors.items():
        assert (vectors != word.initial[name]).any()


@pytest.mark.parametrize("key", ["clip_l", "t5"])
def test_its_file_draws_the_same_picture_in_diffusers_own_loader(key: str, flux: Path, tmp_path: Path) -> None:
    """Catches a placeholder that is read in the other text encoder in another way than the file's users read it."""
    ours, theirs = load_backbone(str(flux)), DiffusionPipeline.from_pretrained(flux)
    word = learn(ours, [key])
    data = encode_word("<truck>", word.vectors, ours.word_keys)
    number = {"clip_l": "", "t5": "_2"}[key]
    tokenizer, encoder = getattr(theirs, f"tokenizer{number}"), getattr(theirs, f"text_encoder{number}")
    theirs.load_textual_inversion(load(data)[key], "<truck>", tokenizer, encoder)
    prompt = "a photo of <truck> at night"
    name, vectors = decode_word(data)
    words = {name: suited(vectors, ours.encoders, ours.word_keys)}
    (picture,) = sample(ours, [prompt], [7], words, SamplerSettings("euler", 4, 3.0), SIDE)
    assert difference(picture, diffusers_own.draw("flux", theirs, prompt, 7, 4, 3.0, SIDE)) <= 2
    (without,) = sample(ours, [prompt], [7], {}, SamplerSettings("euler", 4, 3.0), SIDE)
    assert difference(picture, without) > 2


def test_words_of_other_text_encoders_share_a_batch(sd3: Path) -> None:
    """Catches rows of one word that another word's text encoder reads."""
    ours = load_backbone(str(sd3))
    generator = np.random.default_rng(0)
    whole = {
        name: generator.normal(scale=0.5, size=(2, width)).astype(np.float32) for name, width in ours.encoders.items()
    }
    words = {
        "<a>": {"text_encoder": whole["text_encoder"]},
        "<b>": {"text_encoder_3": whole["text_encoder_3"]},
        "<c>": whole,
    }
    prompts = ["a photo of <a>", "<b> on the beach", "<c> and a cat"]
    together = sample(ours, prompts, [1, 2, 3], words, SamplerSettings("euler", 2, 3.0), SIDE)
    for index, (placeholder, prompt) in enumerate(zip(words, prompts, strict=True)):
        only = {placeholder: words[placeholder]}
        (alone,) = sample(ours, [prompt], [index + 1], only, SamplerSettings("euler", 2, 3.0), SIDE)
        assert difference(alone, together[index]) <= 1


def test_its_samples_are_those_that_a_prompt_draws(sd3: Path) -> None:
    """Catches the name that a word has within a batch, read by a text encoder that does not know the word."""
    ours = load_backbone(str(sd3))
    word = learn(ours, ["clip_g"])
    protocol = PROTOCOLS["quick"]
    request = next(each for each in requests_for(TRUCK, protocol, 0) if each.trained)
    (drawn,) = draw_pictures(ours, wanted_of(ours, TRUCK, word.vectors, [request]), protocol, SIDE)
    settings = SamplerSettings(protocol.sampler, protocol.steps, protocol.guidance)
    again = sample(ours, [request.prompt], [request.seed], {"<truck>": word.vectors}, settings, SIDE)
    elsewhere = {alias(9, "<truck>"): word.vectors}
    renamed = sample(
        ours, [request.prompt.replace("<truck>", alias(9, "<truck>"))], [request.seed], elsewhere, settings, SIDE
    )
    assert (again == renamed).all()
    assert drawn.png == draw_pictures(ours, wanted_of(ours, TRUCK, word.vectors, [request]), protocol, SIDE)[0].png


@pytest.mark.parametrize(
    ("family", "asked", "found"),
    [
        ("StableDiffusion3Pipeline", ("t5", "clip_l"), ("clip_l", "t5")),
        ("StableDiffusion3Pipeline", ("t5", "clip_g", "clip_l"), ()),
        ("StableDiffusionPipeline", ("clip_l",), ()),
        ("FluxPipeline", (), ()),
    ],
)
def test_all_text_encoders_are_as_none_and_their_order_means_nothing(
    family: str, asked: tuple[str, ...], found: tuple[str, ...]
) -> None:
    """Catches one setting under two fingerprints, whose words would be learned twice."""
    assert family_of(family).encoders_named(asked) == found


def test_without_the_option_fingerprints_are_as_they_were() -> None:
    assert "encoders" not in SETTINGS.fingerprinted()
    assert InversionSettings(encoders=("t5",)).fingerprinted()["encoders"] == ("t5",)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_unknown_text_encoder_is_refused_with_those_of_the_family(family: str) -> None:
    keys = ", ".join(FAMILIES[family].encoders.values())
    with pytest.raises(ValueError, match=f"'t6' is no text encoder of {FAMILIES[family].title}; choose from {keys}"):
        family_of(family).encoders_named(("t6",))


def test_a_trainer_without_the_command_line_refuses_it_too(sd3: Path) -> None:
    with pytest.raises(ValueError, match=r"'gemma' is no text encoder of .*: clip_l, clip_g, t5"):
        learn(load_backbone(str(sd3)), ["gemma"])


def test_a_file_of_several_text_encoders_is_refused_by_diffusers_as_it_is(xl_model: Path, tmp_path: Path) -> None:
    """As docs/reference.md says; that one call for each tensor draws the same picture is held in test_families.py."""
    vectors = {
        "text_encoder": np.ones((1, WIDTH), np.float32),
        "text_encoder_2": np.ones((1, SECOND_WIDTH), np.float32),
    }
    file = tmp_path / "word.safetensors"
    file.write_bytes(encode_word("<owl>", vectors, FAMILIES["StableDiffusionXLPipeline"].encoders))
    with pytest.raises(ValueError, match="clip_g"):
        load_pipeline(xl_model).load_textual_inversion(file)
