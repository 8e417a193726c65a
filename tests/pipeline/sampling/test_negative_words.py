"""Words for the negative prompt: learned from pictures to be avoided, drawn against, and as diffusers' pipelines draw them."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from pipeline.models.base import PromptError
from pipeline.models.families import family_of
from pipeline.models.load import load_backbone
from pipeline.protocols import PROTOCOLS
from pipeline.records import AGAINST, Concept, Word
from pipeline.sampling.pictures_of_a_word import draw_pictures, wanted_of
from pipeline.sampling.prompting import requests_for
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings
from pipeline.training.inversion import new_slot, train_step
from pipeline.training.templates import templates_for
from tests import their_transformers, theirs
from tests.pipeline.models.test_transformer_families import difference, random_word
from tests.tiny_model import PIXELS, load_pipeline
from tests.tiny_transformers import FAMILIES as TRANSFORMERS
from tests.tiny_transformers import save_tiny

BLURRED = Concept("blurred", (), "<blurred>", noun="cat", kind="negative")
PROMPT, SETTINGS = "a photo of a cat", SamplerSettings("ddim", 4, 5.0)
pytestmark = [pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")]
GUIDED = [name for name in sorted(TRANSFORMERS) if name != "flux"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_protocol_draws_it_against_its_class() -> None:
    """Catches a negative word that is asked for, whose best picture would be the worst."""
    requests = requests_for(BLURRED, PROTOCOLS["quick"], 0)
    assert {each.kind for each in requests} == {"reconstruction", "edit", "untrained"}
    assert all(each.prompt.endswith(f"{AGAINST}<blurred>") for each in requests)
    assert all("<blurred>" not in each.prompt.partition(AGAINST)[0] for each in requests)
    assert {each.prompt.partition(AGAINST)[0] for each in requests if each.kind == "reconstruction"} == {
        "a photo of cat"
    }
    assert all(each.stated == each.prompt.partition(AGAINST)[0] for each in requests)


def test_it_is_learned_in_sentences_that_say_nothing_else(epsilon_model: Path) -> None:
    assert "{}" in templates_for("negative")
    assert all(" a {}" not in template and " the {}" not in template for template in templates_for("negative"))


def test_before_training_there_is_no_negative_prompt(epsilon_model: Path) -> None:
    """Catches a floor that is drawn against the untrained word: "further than without" would not be what is measured."""
    ours = load_backbone(str(epsilon_model))
    word, protocol = random_word(ours, 1), PROTOCOLS["quick"]
    requests = requests_for(BLURRED, protocol, 0)
    first = {kind: next(each for each in requests if each.kind == kind) for kind in ("reconstruction", "untrained")}
    drawn = draw_pictures(ours, wanted_of(ours, BLURRED, word, list(first.values())), protocol)
    settings = SamplerSettings(protocol.sampler, protocol.steps, protocol.guidance, batch=4)
    for kind, picture in zip(first, drawn, strict=True):
        prompt = first[kind].prompt if kind == "reconstruction" else first[kind].prompt.partition(AGAINST)[0]
        wanted = sample(ours, [prompt] * 4, [first[kind].seed] * 4, {"<blurred>": word}, settings)[0]
        found = np.asarray(decoded(picture.png))
        assert difference(wanted, found) <= 1
    assert drawn[0].seed == drawn[1].seed
    assert drawn[0].png != drawn[1].png


def decoded(png: bytes) -> np.ndarray:
    from pipeline.inputs.picture_file import decode_drawn

    return np.asarray(decode_drawn(png))


@pytest.mark.parametrize("family", ["epsilon", "velocity", "xl"])
def test_it_draws_what_diffusers_draws_with_it(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Catches a negative prompt that is dropped, or zeros in its place in Stable Diffusion XL; also beside a prompt without one."""
    folder: Path = request.getfixturevalue(f"{family}_model")
    ours, their = load_backbone(str(folder)), load_pipeline(folder)
    their.scheduler = diffusers.DDIMScheduler.from_config(their.scheduler.config, clip_sample=False)
    word = random_word(ours, 2)
    theirs.load_word(their, "<blurred>", word, tmp_path)
    prompts = [PROMPT + AGAINST + "<blurred>, a dark dog", PROMPT]
    pictures = sample(ours, prompts, [3, 3], {"<blurred>": word}, SETTINGS)
    for picture, negative in zip(pictures, ("<blurred>, a dark dog", None), strict=True):
        generator = torch.Generator().manual_seed(3)
        told = {"num_inference_steps": 4, "guidance_scale": 5.0, "generator": generator, "negative_prompt": negative}
        (wanted,) = their(PROMPT, **told).images
        assert difference(picture, np.asarray(wanted)) <= 1
    assert difference(*pictures) > 4


@pytest.mark.parametrize("family", GUIDED)
def test_every_guided_family_draws_against_it(family: str, tmp_path: Path) -> None:
    ours = load_backbone(str(save_tiny(family, tmp_path / "model")))
    word, side = random_word(ours, 1), 32 if family == "sana" else 16
    sampler = SamplerSettings("dpm++" if family in ("pixart", "sana") else "euler", 3, 4.0)
    told = ([7], {"<blurred>": word}, sampler, side)
    (against,) = sample(ours, [PROMPT + AGAINST + "<blurred>"], *told)
    (without,) = sample(ours, [PROMPT], *told)
    assert difference(against, without) > 2
    if family in ("sd3", "chroma"):
        their = load_pipeline(tmp_path / "model")
        their_transformers.load_word(their, "<blurred>", word)
        generator = torch.Generator().manual_seed(7)
        told_them = {"guidance_scale": 4.0, "num_inference_steps": 3, "height": side, "width": side}
        (wanted,) = their(PROMPT, negative_prompt="<blurred>", generator=generator, **told_them).images
        assert difference(against, np.asarray(wanted)) <= 2


def test_flux_takes_no_negative_prompt(tmp_path: Path) -> None:
    ours = load_backbone(str(save_tiny("flux", tmp_path / "model")))
    with pytest.raises(PromptError, match="takes none, as its guidance is distilled"):
        sample(ours, [PROMPT + AGAINST + "a dog"], [0], {}, SamplerSettings("euler", 1), 16)
    with pytest.raises(ValueError, match=r"blurred is of the kind 'negative': Flux\.1 takes no negative prompt"):
        family_of("FluxPipeline").refuse_negative("blurred is of the kind 'negative'")
    family_of("ChromaPipeline").refuse_negative("blurred")


@pytest.mark.parametrize("place", ["input", "output"])
def test_it_is_learned_like_any_other_word(place: str, epsilon_model: Path) -> None:
    ours = load_backbone(str(epsilon_model))
    settings = InversionSettings(steps=3, early_stop="off", word_place=place)  # type: ignore[arg-type]
    pictures = np.random.default_rng(1).integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)
    slot = new_slot(BLURRED, pictures, ours, settings)
    while not (ended := train_step(ours, [slot])):
        pass
    ((_, word),) = ended
    assert isinstance(word, Word)
    assert all((vectors != word.initial[name]).any() for name, vectors in word.vectors.items())
