"""Every family of models beside diffusers' own code on the same weights: gradients, words, pictures, frozen weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from pipeline.models.base import Backbone
from pipeline.models.find import ModelError
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.training.inversion import Draws, Slot, draw, losses, new_slot, train_step
from pipeline.training.templates import templates_for
from tests import theirs as diffusers_own
from tests.tiny_model import PIXELS, PROJECTED, load_pipeline

SETTINGS = InversionSettings(steps=3, early_stop="off", batch_size=2, learning_rate=5e-3)
ONE, THREE = (
    Concept("my-cat", (), "<my-cat>", initializer="cat"),
    Concept("truck", (), "<truck>", initializer="fire truck", vectors=3),
)
PICTURES = np.random.default_rng(1).integers(0, 256, (3, PIXELS, PIXELS, 3), np.uint8)
THEIRS = {"ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler", "euler": "EulerDiscreteScheduler"}
# As Stable Diffusion's own scheduler folders say, and the tiny models' do not.
UNCLIPPED = {"clip_sample": False}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_word(backbone: Backbone, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng((count, seed))
    return {
        name: generator.normal(scale=0.03, size=(count, width)).astype(np.float32)
        for name, width in backbone.encoders.items()
    }


def difference(one: np.ndarray, other: np.ndarray) -> int:
    """Of the two grey levels that are furthest apart."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def prompts_of(slot: Slot, drawn: Draws) -> list[str]:
    templates = [template.format(slot.concept.placeholder) for template in templates_for(slot.concept.kind)]
    rows = [ids.tolist() for ids in slot.templates.ids]
    return [templates[rows.index(ids.tolist())] for ids in drawn.tokens.ids]


@pytest.mark.parametrize("concept", [ONE, THREE], ids=lambda concept: f"{concept.vectors} vectors")
def test_the_gradient_is_that_of_diffusers_own_modules(concept: Concept, any_model: Path, tmp_path: Path) -> None:
    """Catches words learned for a wrong loss: another target, schedule, position, layer, pooling or size conditioning."""
    ours, theirs = (
        load_backbone(str(any_model), settings=ModelSettings("float64")),
        load_pipeline(any_model).to(torch.float64),
    )
    for name in ours.encoders:
        if hasattr(getattr(theirs, name, None), "set_attn_implementation"):
            # As ours on a CPU, which takes its softmax in float32: a difference of millionths that is no error.
            getattr(theirs, name).set_attn_implementation("eager")
    slot = new_slot(concept, PICTURES, ours, SETTINGS)
    drawn = draw(slot, ours, "step", 0, 4)
    (value,) = losses(ours, [slot], [drawn])
    gradients = dict(zip(slot.words, torch.autograd.grad(value, list(slot.words.values())), strict=True))

    vectors = {name: word.detach().numpy() for name, word in slot.words.items()}
    diffusers_own.load_word(theirs, concept.placeholder, vectors, tmp_path)
    tables = diffusers_own.tables(theirs)
    noising = DDPMScheduler.from_config(theirs.scheduler.config)
    words = {concept.placeholder: vectors}
    prompts = [diffusers_own.expanded(theirs, prompt, words) for prompt in prompts_of(slot, drawn)]
    noisy = noising.add_noise(drawn.latents, drawn.noise, drawn.timesteps)
    predicted = diffusers_own.predict(theirs, prompts, noisy.double(), drawn.timesteps)
    velocity = noising.config.prediction_type == "v_prediction"
    target = noising.get_velocity(drawn.latents, drawn.noise, drawn.timesteps) if velocity else drawn.noise
    their_value = torch.nn.functional.mse_loss(predicted, target.double())
    their_gradients = dict(zip(tables, torch.autograd.grad(their_value, list(tables.values())), strict=True))

    assert value.item() == pytest.approx(their_value.item(), rel=1e-5)
    assert set(gradients) == set(their_gradients) == set(ours.encoders)
    for name, theirs_of in their_gradients.items():
        assert gradients[name].abs().max() > 0
        assert gradients[name].shape == (concept.vectors, ours.encoders[name])
        wanted = theirs_of[-concept.vectors :].float()
        torch.testing.assert_close(gradients[name], wanted, rtol=1e-4, atol=1e-6 * wanted.abs().max().item())


def test_the_gradient_is_the_slope_of_the_loss(any_model: Path) -> None:
    """Catches a gradient cut off or scaled on its way through the frozen model, in either text encoder."""
    exact = load_backbone(str(any_model), settings=ModelSettings("float64"))
    slot = new_slot(THREE, PICTURES, exact, SETTINGS)
    drawn = draw(slot, exact, "step", 0, 4)
    drawn = replace(drawn, latents=drawn.latents.double(), noise=drawn.noise.double())
    found = torch.autograd.grad(losses(exact, [slot], [drawn])[0], list(slot.words.values()))
    for word, gradient in zip(slot.words.values(), found, strict=True):
        direction = torch.randn(word.shape, generator=torch.Generator().manual_seed(0))
        start, values = word.detach().clone(), []
        for move in (1e-5, -1e-5, 0):  # and back to where it began
            with torch.no_grad():
                word.copy_(start + move * direction)
                values.append(losses(exact, [slot], [drawn])[0].item())
        tolerance = 1e-4 * (gradient.norm() * direction.norm()).item()
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx((gradient * direction).sum().item(), abs=tolerance)


def learn(backbone: Backbone, concept: Concept) -> Word:
    slot = new_slot(concept, PICTURES, backbone, SETTINGS)
    while not (ended := train_step(backbone, [slot])):
        pass
    ((_, word),) = ended
    assert isinstance(word, Word)
    return word


def test_a_learned_word_draws_the_same_picture_in_diffusers(any_model: Path, tmp_path: Path) -> None:
    """Catches a word that is lost, mixed up between text encoders, or cut on its way through the file to its users.

    Training leaves every frozen weight as it was, or the picture of the weights on disk would be another.
    """
    ours = load_backbone(str(any_model))
    before = ours.weights_digest()
    word = learn(ours, THREE)
    assert ours.weights_digest() == before == load_backbone(str(any_model)).weights_digest()
    for name, vectors in word.vectors.items():
        assert (np.abs(vectors - word.initial[name]).max(axis=1) > 1e-3).all()
    words = {THREE.placeholder: word.vectors}
    (picture,) = sample(ours, ["a photo of <truck> at night"], [7], words, SamplerSettings("ddim", 4, 5.0))
    theirs = load_pipeline(any_model)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, **UNCLIPPED)
    diffusers_own.load_word(theirs, THREE.placeholder, word.vectors, tmp_path)
    prompt = diffusers_own.expanded(theirs, "a photo of <truck> at night", words)
    assert difference(picture, diffusers_own.draw(theirs, prompt, 7, 4, 5.0)) <= 1
    (without,) = sample(ours, ["a photo of <truck> at night"], [7], {}, SamplerSettings("ddim", 4, 5.0))
    assert difference(picture, without) > 4


# LDMTextToImagePipeline does not scale its latents, as Euler's method would need.
CASES = [
    (family, sampler) for family in ("xl", "vq", "kl") for sampler in THEIRS if family == "xl" or sampler != "euler"
]


@pytest.mark.parametrize(("family", "sampler"), CASES)
def test_every_sampler_draws_what_diffusers_draws(
    family: str, sampler: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Catches words that look right only here: another initial noise, schedule, guidance, padding or first stage."""
    folder: Path = request.getfixturevalue(f"{family}_model")
    ours, theirs = load_backbone(str(folder)), load_pipeline(folder)
    unclipped = UNCLIPPED if sampler == "ddim" else {}
    theirs.scheduler = getattr(diffusers, THEIRS[sampler]).from_config(theirs.scheduler.config, **unclipped)
    words = {"<my-cat>": random_word(ours, 1), "<truck>": random_word(ours, 2)}
    for placeholder, vectors in words.items():
        diffusers_own.load_word(theirs, placeholder, vectors, tmp_path)
    for prompt in ("a dark photo of <my-cat>, <truck> on the beach", "a cat", ""):
        (picture,) = sample(ours, [prompt], [3], words, SamplerSettings(sampler, 5, 4.0))
        assert picture.std() > 5
        assert (
            difference(picture, diffusers_own.draw(theirs, diffusers_own.expanded(theirs, prompt, words), 3, 5, 4.0))
            <= 1
        )


@pytest.fixture
def copy(tmp_path: Path, xl_model: Path) -> Path:
    """A copy of the tiny Stable Diffusion XL, to be changed."""
    return Path(shutil.copytree(xl_model, tmp_path / "model"))


def change(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings), encoding="utf-8")


@pytest.mark.parametrize("prompt", ["a photo of <my-cat> at night", "<my-cat>", "a cat"])
def test_the_prompt_is_pooled_where_it_ends(prompt: str, xl_model: Path, copy: Path, tmp_path: Path) -> None:
    """Catches pooling at the highest id, which is the word's own: the published text encoder's configuration asks for it.

    Everything but the words' place would be lost from the summary that the U-Net is given.
    """
    theirs = load_pipeline(xl_model)
    word = random_word(load_backbone(str(xl_model)), 1)
    diffusers_own.load_word(theirs, "<my-cat>", word, tmp_path)
    _, _, wanted, _ = theirs.encode_prompt(prompt, do_classifier_free_guidance=False)

    change(copy / "text_encoder_2/config.json", eos_token_id=2)
    for folder in (xl_model, copy):
        ours = load_backbone(str(folder))
        words = {name: torch.from_numpy(vectors) for name, vectors in word.items()}
        pooled = ours.embed(ours.tokenise([prompt], {"<my-cat>": range(1)}), words).pooled
        assert pooled is not None
        assert pooled.shape == (1, PROJECTED)
        torch.testing.assert_close(pooled, wanted, rtol=1e-4, atol=1e-5)
    highest = load_pipeline(copy)
    diffusers_own.load_word(highest, "<my-cat>", word, tmp_path)
    _, _, elsewhere, _ = highest.encode_prompt(prompt, do_classifier_free_guidance=False)
    assert torch.allclose(elsewhere, wanted, rtol=1e-2) == ("<my-cat>" not in prompt)


@pytest.mark.parametrize("zeros", [True, False])
def test_without_a_prompt_xl_knows_what_its_pipeline_says(zeros: bool, copy: Path) -> None:
    """Catches guidance away from the empty prompt in a model that never saw one, and the other way round."""
    change(copy / "model_index.json", force_zeros_for_empty_prompt=zeros)
    ours, theirs = load_backbone(str(copy)), load_pipeline(copy)
    context, without, pooled, pooled_without = theirs.encode_prompt("a cat")
    found = ours.embed_guided(["a cat"], {}, {})
    torch.testing.assert_close(found.context, torch.cat([without, context]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled, torch.cat([pooled_without, pooled]), rtol=1e-4, atol=1e-5)
    assert found.context[0].any().item() == (not zeros)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, **UNCLIPPED)
    (picture,) = sample(ours, ["a cat"], [3], {}, SamplerSettings("ddim", 4, 5.0))
    assert difference(picture, diffusers_own.draw(theirs, "a cat", 3, 4, 5.0)) <= 1


def test_a_picture_of_another_size_is_conditioned_on_that_size(xl_model: Path) -> None:
    """Catches size conditioning that is fixed: a picture of half the pixels would be drawn as a small part of a whole one."""
    ours, theirs = load_backbone(str(xl_model)), load_pipeline(xl_model)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, **UNCLIPPED)
    told = {"num_inference_steps": 4, "guidance_scale": 5.0, "height": 2 * PIXELS, "width": 2 * PIXELS}
    (wanted,) = theirs("a cat", generator=torch.Generator().manual_seed(3), **told).images
    (picture,) = sample(ours, ["a cat"], [3], {}, SamplerSettings("ddim", 4, 5.0), resolution=2 * PIXELS)
    assert difference(picture, np.asarray(wanted)) <= 1


def test_a_vector_quantised_picture_is_one_point_before_the_codebook(vq_model: Path) -> None:
    """Catches latents that were quantised already, which the U-Net never saw in training."""
    ours, theirs = load_backbone(str(vq_model)), load_pipeline(vq_model).vqvae
    images = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        wanted = theirs.encode(images).latents * 0.5
    found = ours.encode_images(PICTURES)
    torch.testing.assert_close(found.mean, wanted, rtol=1e-4, atol=1e-5)
    assert not found.std.any()


def test_a_word_is_refused_that_either_tokenizer_knows(copy: Path) -> None:
    """Catches a placeholder that is new to one text encoder and an old word to the other."""
    ours = load_backbone(str(copy))
    second = ours.text["text_encoder_2"]  # type: ignore[attr-defined]
    second.tokenizer.add_tokens("<known>")
    with pytest.raises(ValueError, match="already is a word"):
        ours.refuse_placeholder("<known>")


def test_the_digest_sees_one_bit_of_the_second_text_encoder(xl_model: Path, copy: Path) -> None:
    """Catches a part whose weights could drift unseen."""
    file = copy / "text_encoder_2/model.safetensors"
    weights = load_file(file)
    weights[min(weights)].view(-1)[0] += 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    assert load_backbone(str(copy)).weights_digest() != load_backbone(str(xl_model)).weights_digest()


@pytest.mark.parametrize("upcast", [True, False])
def test_a_first_stage_that_overflows_in_half_precision_stays_in_full(upcast: bool, copy: Path) -> None:
    """Catches black pictures: the published first stage overflows in float16, and says so in its configuration."""
    change(copy / "vae/config.json", force_upcast=upcast)
    ours = load_backbone(str(copy), settings=ModelSettings("float16"))
    first_stage, unet = ours.first_stage.module, ours.denoiser  # type: ignore[attr-defined]
    assert (first_stage.dtype, unet.dtype) == (torch.float32 if upcast else torch.float16, torch.float16)
    posterior = ours.encode_images(PICTURES)
    assert (posterior.mean.dtype, posterior.std.dtype) == (torch.float32, torch.float32)
    assert load_backbone(str(copy), settings=ModelSettings("bfloat16")).first_stage.module.dtype == torch.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("EDMEulerScheduler", "its scheduler, EDMEulerScheduler, has no beta_schedule"),
        ("FlowMatchEulerDiscreteScheduler", "is a rectified flow without a shift: .* must state shift"),
    ],
)
def test_a_model_without_the_schedule_it_was_trained_with_is_refused(scheduler: str, said: str, copy: Path) -> None:
    """Catches words learned under a noise schedule, or a flow's shift, that a library made up."""
    file = copy / "scheduler/scheduler_config.json"
    kept = json.loads(file.read_text())
    del kept["beta_schedule"]
    file.write_text(json.dumps(kept | {"_class_name": scheduler}), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        load_backbone(str(copy))


def test_a_unet_that_is_told_something_else_is_refused(copy: Path) -> None:
    change(copy / "unet/config.json", addition_embed_type=None)
    with pytest.raises(ModelError, match="takes None, not 'text_time'"):
        load_backbone(str(copy))


def test_neighbours_share_a_batch_in_every_family(any_model: Path) -> None:
    """Catches words mixed up between slots where there is more than one table of words."""
    ours = load_backbone(str(any_model))
    slots = [new_slot(concept, PICTURES, ours, SETTINGS) for concept in (THREE, replace(ONE, vectors=2))]
    ended = train_step(ours, slots)
    while not ended:
        ended = train_step(ours, slots)
    for slot, word in ended:
        assert isinstance(word, Word)
        alone = learn(ours, slot.concept)
        for name, vectors in word.vectors.items():
            ours_change, alone_change = vectors - word.initial[name], alone.vectors[name] - word.initial[name]
            cosine = (ours_change * alone_change).sum() / np.linalg.norm(ours_change) / np.linalg.norm(alone_change)
            assert cosine >= 0.999


@pytest.mark.parametrize(("unet", "text"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "auto")])
def test_text_encoders_have_the_precision_that_they_are_told_to_have(unet: str, text: str, any_model: Path) -> None:
    """Catches an option that is dropped, and a U-Net that refuses what text encoders of another precision tell it."""
    ours = load_backbone(str(any_model), settings=ModelSettings(unet, text_encoder_dtype=text))
    of_text = {encoder.module.dtype for encoder in ours.text.values()}  # type: ignore[attr-defined]
    assert of_text == {getattr(torch, unet if text == "auto" else text)}
    assert ours.denoiser.dtype == getattr(torch, unet)  # type: ignore[attr-defined]
    word = learn(ours, ONE)
    for name, vectors in word.vectors.items():
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert (vectors != word.initial[name]).any()
    assert sample(ours, ["a bird"], [0], {}, SamplerSettings(steps=1))[0].dtype == np.uint8


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_first_stage_has_the_precision_that_it_is_told_to_have(kind: str, any_model: Path) -> None:
    """Catches an option that is dropped, and latents or pictures that come out in another precision than the rest expects."""
    plain, ours = (
        load_backbone(str(any_model)),
        load_backbone(str(any_model), settings=ModelSettings(first_stage_dtype=kind)),
    )
    first_stage = ours.first_stage  # type: ignore[attr-defined]
    assert first_stage.module.dtype == getattr(torch, kind)
    one, other = plain.encode_images(PICTURES), ours.encode_images(PICTURES)
    assert (other.mean.dtype, other.std.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(one.mean, other.mean, rtol=0.05, atol=0.05 * one.mean.abs().max().item())
    assert torch.equal(one.mean, other.mean) == (kind == "float32")
    assert ours.decode(other.mean).dtype == np.uint8


def test_a_first_stage_that_rests_is_fetched_for_its_work_and_put_back(
    any_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a GPU that holds an autoencoder for a thousand steps that do not need it. There is no GPU here: what
    is looked at is the order of the moves."""
    at: list[str] = []
    ours = load_backbone(str(any_model), settings=ModelSettings(offload_first_stage=True))
    module = ours.first_stage.module  # type: ignore[attr-defined]
    original = type(module).to

    def move(self: torch.nn.Module, *where: object) -> torch.nn.Module:
        at.append(str(where[0]))
        return original(self, *where)

    monkeypatch.setattr(type(module), "to", move)
    ours.first_stage.device = torch.device("cpu:0")  # type: ignore[attr-defined]
    posterior = ours.encode_images(PICTURES)
    assert at == ["cpu:0", "cpu"]
    ours.decode(posterior.mean)
    assert at == ["cpu:0", "cpu"] * 2
    monkeypatch.setattr(type(module), "encode", None)
    with pytest.raises(TypeError):
        ours.encode_images(PICTURES)
    assert at == ["cpu:0", "cpu"] * 3, "also after a fault"
    plain = load_backbone(str(any_model))
    assert plain.weights_digest() == ours.weights_digest()
