"""Words behind the text encoder, in every family: gradients and pictures beside diffusers' own, resumed, mixed, off the GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from pipeline.models.base import Backbone, PromptError
from pipeline.models.families import FAMILIES, family_of
from pipeline.models.load import load_backbone
from pipeline.records import OUT, Concept, Word
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings, ModelSettings, SettingError
from pipeline.store.checkpoints import decode_checkpoint, encode_checkpoint
from pipeline.training.inversion import Slot, draw, losses, new_slot, restore, snapshot, train_step
from tests import their_transformers, theirs
from tests.pipeline.models.test_transformer_families import difference
from tests.tiny_model import PIXELS, load_pipeline, save_tiny_ldm, save_tiny_model, save_tiny_xl
from tests.tiny_transformers import FAMILIES as TRANSFORMERS
from tests.tiny_transformers import save_tiny

FEW = ("xl", "flux", "qwen_image")  # several text encoders, one of them only summarised, a template
UNETS = ("sd", "sd2", "xl", "ldm")
SETTINGS = InversionSettings(
    steps=3,
    early_stop="off",
    batch_size=2,
    learning_rate=5e-2,
    templates=("a photo of a {}", "a {}"),
    word_place="output",
)
TRUCK = Concept("truck", (), "<truck>", initializer="fire truck", vectors=3)
CAT = Concept("my-cat", (), "<my-cat>", initializer="cat", vectors=3)
PROMPT = "a photo of <truck> at night"
pytestmark = [pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    def place(family: str) -> Path:
        return tmp_path_factory.mktemp(family)

    return {family: save_tiny(family, place(family)) for family in TRANSFORMERS} | {
        "sd": save_tiny_model(place("sd"), "epsilon"), "sd2": save_tiny_model(place("sd2"), "v_prediction"),
        "xl": save_tiny_xl(place("xl")), "ldm": save_tiny_ldm(place("ldm"), "kl"),
    }  # fmt: skip


@pytest.fixture(params=[*UNETS, *sorted(TRANSFORMERS)])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def side_of(family: str) -> int:
    return PIXELS if family in UNETS else 32 if family == "sana" else 16


def pictures(family: str) -> np.ndarray:
    side = side_of(family)
    return np.random.default_rng(1).integers(0, 256, (2, side, side, 3), np.uint8)


def sampler_of(family: str) -> SamplerSettings:
    name = "ddim" if family in UNETS else "dpm++" if family in ("pixart", "sana") else "euler"
    return SamplerSettings(name, 4, 3.0)


class Theirs:
    """diffusers' own pipeline, with words behind its text encoders as docs/reference.md adds them."""

    def __init__(self, family: str, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.family, self.pipeline = family, load_pipeline(folder).to(dtype)
        if family in UNETS:
            config = self.pipeline.scheduler.config
            self.pipeline.scheduler = diffusers.DDIMScheduler.from_config(config, clip_sample=False)
        for encoder in self.encoders.values():
            encoder.requires_grad_(False)
            if hasattr(encoder, "set_attn_implementation"):
                encoder.set_attn_implementation("eager")  # as ours on a CPU

    @property
    def encoders(self) -> dict[str, Any]:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3", "bert")
        return {name: module for name in names if (module := getattr(self.pipeline, name, None)) is not None}

    def add(self, placeholder: str, rows: Mapping[str, torch.Tensor]) -> None:
        add = their_transformers.documented("add_word_behind")
        for name, vectors in rows.items():
            name = name.removesuffix(OUT)
            tokenizer = getattr(self.pipeline, their_transformers.TOKENIZERS.get(name, "tokenizer"))
            add(tokenizer, self.encoders[name], placeholder, vectors)

    def _expanded(self, prompt: str, rows: Mapping[str, torch.Tensor]) -> str:
        words = {TRUCK.placeholder: {name: vectors.detach().numpy() for name, vectors in rows.items()}}
        if self.family == "ldm":
            (vectors,) = words[TRUCK.placeholder].values()
            return theirs.expanded(self.pipeline, prompt, {TRUCK.placeholder: {"bert": vectors}})
        return their_transformers.expanded(self.pipeline, prompt, words)

    def predict(
        self, prompts: Sequence[str], rows: Mapping[str, torch.Tensor], noisy: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        texts = [self._expanded(prompt, rows) for prompt in prompts]
        if self.family in UNETS:
            return theirs.predict(self.pipeline, texts, noisy, times)
        return their_transformers.predict(self.family, self.pipeline, texts, noisy, times)

    def draw(self, prompt: str, rows: Mapping[str, torch.Tensor], settings: SamplerSettings) -> np.ndarray:
        told = (self._expanded(prompt, rows), 7, settings.steps, settings.guidance)
        if self.family in UNETS:
            return theirs.draw(self.pipeline, *told)
        return their_transformers.draw(self.family, self.pipeline, *told, side_of(self.family))


def test_the_gradient_is_that_of_diffusers_own_modules(family: str, tiny: Mapping[str, Path]) -> None:
    """Catches a word set in another layer, another place, or before a norm; and one that a mask hides."""
    ours = load_backbone(str(tiny[family]), settings=ModelSettings("float64"))
    slot = new_slot(TRUCK, pictures(family), ours, SETTINGS)
    drawn = draw(slot, ours, "step", 0, 4)
    (value,) = losses(ours, [slot], [drawn])
    gradients = dict(zip(slot.words, torch.autograd.grad(value, list(slot.words.values())), strict=True))
    assert set(gradients) == {name for name in ours.word_keys if name.endswith(OUT)}

    their = Theirs(family, tiny[family], torch.float64)
    rows = {name: word.detach().double().requires_grad_() for name, word in slot.words.items()}
    their.add(TRUCK.placeholder, rows)
    sentences = [ids.tolist() for ids in slot.templates.ids]
    prompts = [SETTINGS.templates[sentences.index(ids.tolist())].format(TRUCK.placeholder) for ids in drawn.tokens.ids]
    latents, noise, times = drawn.latents.double(), drawn.noise.double(), drawn.timesteps
    if family in UNETS or family == "pixart":
        noising = DDPMScheduler.from_config(their.pipeline.scheduler.config)
        noisy, target = noising.add_noise(latents, noise, times), noise
        if noising.config.prediction_type == "v_prediction":
            target = noising.get_velocity(latents, noise, times)
    else:
        sigma = (times.double() / 1000)[:, None, None, None]
        noisy, target = (1 - sigma) * latents + sigma * noise, noise - latents
    their_value = torch.nn.functional.mse_loss(their.predict(prompts, rows, noisy, times), target)
    wanted = dict(zip(rows, torch.autograd.grad(their_value, list(rows.values())), strict=True))

    assert value.item() == pytest.approx(their_value.item(), rel=1e-5)
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        most = wanted[name].abs().max().item()
        # Z-Image turns its positions in single precision.
        torch.testing.assert_close(gradient, wanted[name].float(), rtol=1e-3, atol=5e-5 * most)


def finish(ours: Backbone, slot: Slot) -> Word:
    while not (ended := train_step(ours, [slot])):
        pass
    ((_, word),) = ended
    assert isinstance(word, Word)
    return word


def learn(ours: Backbone, family: str, concept: Concept = TRUCK, settings: InversionSettings = SETTINGS) -> Word:
    return finish(ours, new_slot(concept, pictures(family), ours, settings))


def test_a_learned_word_draws_the_same_picture_in_diffusers(family: str, tiny: Mapping[str, Path]) -> None:
    """Catches a word that is lost or put elsewhere when it is drawn, a length that changed, and weights that training moved."""
    ours = load_backbone(str(tiny[family]))
    before = ours.weights_digest()
    word = learn(ours, family)
    assert ours.weights_digest() == before == load_backbone(str(tiny[family])).weights_digest()
    for name, vectors in word.vectors.items():
        assert name.endswith(OUT)
        assert (np.abs(vectors - word.initial[name]).max(axis=1) > 1e-3).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), ours.usual_length(name), rtol=1e-4)
    settings, side = sampler_of(family), side_of(family)
    (picture,) = sample(ours, [PROMPT], [7], {TRUCK.placeholder: word.vectors}, settings, side)
    their, rows = Theirs(family, tiny[family]), {name: torch.tensor(value) for name, value in word.vectors.items()}
    their.add(TRUCK.placeholder, rows)
    with torch.no_grad():
        assert difference(picture, their.draw(PROMPT, rows, settings)) <= 2
    (without,) = sample(ours, [PROMPT], [7], {}, settings, side)
    assert difference(picture, without) > 2


def test_training_goes_on_from_a_checkpoint_to_the_last_bit(family: str, tiny: Mapping[str, Path]) -> None:
    whole = learn(load_backbone(str(tiny[family])), family)
    ours = load_backbone(str(tiny[family]))
    slot = new_slot(TRUCK, pictures(family), ours, SETTINGS)
    train_step(ours, [slot])
    kept = decode_checkpoint(encode_checkpoint(snapshot(slot, "f" * 64)))
    assert kept is not None
    again = new_slot(TRUCK, pictures(family), ours, SETTINGS)
    restore(again, kept)
    word = finish(ours, again)
    for name, vectors in whole.vectors.items():
        assert vectors.tobytes() == word.vectors[name].tobytes()


def counted(ours: Any) -> dict[str, list[int]]:
    """Text encoder -> prompts of each of its calls, of which none may be differentiated."""
    calls: dict[str, list[int]] = {name: [] for name in ours.text}

    def hook(name: str) -> Any:
        def count(_: object, args: Sequence[torch.Tensor], __: object) -> None:
            assert not torch.is_grad_enabled()
            calls[name].append(len(args[0]))

        return count

    for name, encoder in ours.text.items():
        encoder.module.register_forward_hook(hook(name))
    return calls


def test_the_text_encoder_reads_each_sentence_once_and_without_a_gradient(
    family: str, tiny: Mapping[str, Path]
) -> None:
    """Catches a giant text encoder that runs, or is differentiated, at every step."""
    ours = load_backbone(str(tiny[family]))
    calls = counted(ours)
    learn(ours, family, settings=replace(SETTINGS, steps=6))
    first = {name: list(of) for name, of in calls.items()}
    learn(ours, family, replace(TRUCK, name="other"), replace(SETTINGS, steps=6))
    for name in calls:
        # The usual sentences, the initializer's, and the two templates.
        assert first[name] == [1] * len(first[name])
        assert len(first[name]) <= 3 + 1 + len(SETTINGS.templates)
        assert calls[name] == first[name], "another word in the same sentences reads nothing"


@pytest.mark.parametrize("family", FEW)
def test_words_before_and_behind_the_text_encoder_share_a_batch(family: str, tiny: Mapping[str, Path]) -> None:
    """Catches a row of one kind that is taken for one of the other, in a batch and in one prompt."""
    ours = load_backbone(str(tiny[family]))
    behind = learn(ours, family).vectors
    before = learn(ours, family, CAT, replace(SETTINGS, word_place="input")).vectors
    words, settings, side = {"<truck>": behind, "<my-cat>": before}, sampler_of(family), side_of(family)
    prompts = ["a photo of <truck>", "a photo of <my-cat>", "a cat"]
    together = sample(ours, prompts, [1, 2, 3], words, settings, side)
    for index, prompt in enumerate(prompts):
        only = {name: vectors for name, vectors in words.items() if name in prompt}
        (alone,) = sample(ours, [prompt], [index + 1], only, settings, side)
        assert difference(alone, together[index]) <= 1
    both, one = (
        sample(ours, [prompt], [1], words, settings, side)[0]
        for prompt in ("a <truck> and <my-cat>", "a <truck> and cat")
    )
    assert difference(both, one) > 2


@pytest.mark.parametrize("family", FEW)
def test_off_the_gpu_the_word_is_the_same(
    family: str, tiny: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an encoder that stays on the GPU, or is missing there when a sentence is new. There is no GPU here: what is
    looked at is the order of the moves."""
    plain: Any = load_backbone(str(tiny[family]))
    for each in plain.text.values():
        # Weights that were moved are copies. Some processors' kernels round by where a tensor begins in memory.
        for weights in each.module.parameters():
            weights.data = weights.data.clone()
    ours: Any = load_backbone(str(tiny[family]), settings=ModelSettings(offload_text_encoders=True))
    wanted = learn(plain, family)
    at: list[str] = []
    encoder = next(reversed(ours.text.values()))
    original = type(encoder.module).to

    def move(self: torch.nn.Module, where: torch.device) -> torch.nn.Module:
        at.append(str(where))
        return original(self, where)

    monkeypatch.setattr(type(encoder.module), "to", move)
    for each in ours.text.values():
        each.device = torch.device("cpu:0")
    word = learn(ours, family)
    assert at[:2] == ["cpu:0", "cpu"]
    assert at == ["cpu:0", "cpu"] * (len(at) // 2)
    for name, vectors in word.vectors.items():
        assert vectors.tobytes() == wanted.vectors[name].tobytes()
    settings, side = sampler_of(family), side_of(family)
    for prompt in (PROMPT, "a cat", ""):
        drawn = [sample(model, [prompt], [7], {"<truck>": word.vectors}, settings, side)[0] for model in (plain, ours)]
        assert (drawn[0] == drawn[1]).all()
    with pytest.raises(PromptError, match="is kept off the GPU, and takes words behind it alone"):
        learn(ours, family, settings=replace(SETTINGS, word_place="input"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": "statistics"}, "start is 'statistics'; it must be words or a start file with a word behind"),
        ({"norm_limit": 2.0}, "norm limit is 2.0; it must be 0 with a word behind"),
        ({"weight_decay": 0.1}, "weight decay is 0.1; it must be 0 with a word behind"),
        ({"cross_initialised": True}, "cross initialised is True; it must be False with a word behind"),
    ],
)
def test_what_does_not_suit_a_word_behind_the_encoder_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        replace(SETTINGS, **wrong)


def test_a_text_encoder_that_is_only_summarised_is_refused() -> None:
    """Catches a word that nothing would ever look at: Flux is told a summary of what its CLIP says."""
    flux = family_of("FluxPipeline")
    with pytest.raises(
        ValueError, match=r"'clip_l' is no text encoder that a word can stand behind, of Flux\.1; choose from t5"
    ):
        flux.encoders_named(("clip_l",), "output")
    assert flux.encoders_named(("t5",), "output") == ()
    assert flux.encoders_named(("t5",)) == ("t5",)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_has_a_place_behind_a_text_encoder(name: str) -> None:
    assert any(key.endswith(OUT) for key in FAMILIES[name].word_keys.values())


def test_a_directional_word_behind_the_encoder_keeps_its_length(tiny: Mapping[str, Path]) -> None:
    ours = load_backbone(str(tiny["flux"]))
    word = learn(ours, "flux", settings=replace(SETTINGS, optimiser="directional"))
    for name, vectors in word.vectors.items():
        assert (vectors != word.initial[name]).any()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), ours.usual_length(name), rtol=1e-4)


def test_without_the_option_fingerprints_are_as_they_were() -> None:
    assert "word_place" not in InversionSettings().fingerprinted()
    assert SETTINGS.fingerprinted()["word_place"] == "output"
