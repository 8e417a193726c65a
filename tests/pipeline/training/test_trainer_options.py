"""The trainer's options on a tiny model: each does what it says, and a word without them is as it was.

Captions, masks and other starts are under test in test_sidecars.py, test_starting.py and test_sentences.py.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.checkpoints import decode_checkpoint, encode_checkpoint
from pipeline.training.early_stopping import look_every
from pipeline.training.inversion import (
    SideInformation,
    Slot,
    draw,
    end_of,
    losses,
    new_slot,
    restore,
    snapshot,
    train_step,
)
from pipeline.training.schedules import rate_at
from tests.tiny_model import PIXELS

ENCODER = "text_encoder"
CAT = Concept("my-cat", (), "<my-cat>", initializer="cat")
THREE = replace(CAT, initializer="fire truck", vectors=3)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, PIXELS, PIXELS, 3), np.uint8)
HALF = np.zeros((3, PIXELS, PIXELS), np.uint8)
HALF[:, : PIXELS // 2] = 255
EVERY = look_every(8)
SHORT = InversionSettings(steps=10, early_stop="off", batch_size=2, learning_rate=5e-3)


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    torch.set_num_threads(1)
    return load_backbone(str(epsilon_model))


def slot_of(
    backbone: Backbone, settings: InversionSettings, concept: Concept = CAT, side: SideInformation | None = None
) -> Slot:
    return new_slot(concept, PICTURES, backbone, settings, side)


def finish(slot: Slot, backbone: Backbone) -> Word:
    while (end := end_of(slot)) is None:
        train_step(backbone, [slot])
    assert isinstance(end, Word)
    return end


def norms(word: Word) -> np.ndarray:
    return np.linalg.norm(word.vectors[ENCODER], axis=1)


def usual_norm(backbone: Backbone) -> float:
    return float(np.linalg.norm(backbone.vocabulary_vectors(ENCODER), axis=1).mean())


OPTIONS: dict[str, InversionSettings] = {
    "schedule linear": replace(SHORT, schedule="linear"),
    "schedule cosine": replace(SHORT, schedule="cosine"),
    "warm-up": replace(SHORT, warmup_steps=5),
    "weight decay": replace(SHORT, weight_decay=0.1),
    "statistics": replace(SHORT, start="statistics"),
    "templates": replace(SHORT, templates=("a painting of a {} at night",)),
    "progressive": replace(SHORT, progressive=0.3),
    "per image": replace(SHORT, per_image=0.5),
    "regularisation": replace(SHORT, regularisation=0.5),
    "min-SNR": replace(SHORT, min_snr=5.0),
    "norm": replace(SHORT, norm="vocabulary"),
    "norm limit": replace(SHORT, norm_limit=0.5),
    "no flip": replace(SHORT, flip=False),
    "timesteps": replace(SHORT, timesteps="uniform"),
    "cross initialisation": replace(SHORT, cross_initialised=True),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_makes_another_word(option: str, backbone: Backbone) -> None:
    """Catches an option that is parsed, kept and never looked at."""
    plain = finish(slot_of(backbone, SHORT, THREE), backbone)
    word = finish(slot_of(backbone, OPTIONS[option], THREE), backbone)
    assert word.vectors[ENCODER].shape == plain.vectors[ENCODER].shape
    assert np.abs(word.vectors[ENCODER] - plain.vectors[ENCODER]).max() > 1e-5


ALL_AT_ONCE = replace(
    SHORT, steps=30, batch_size=8, early_stop="dvar", schedule="cosine", warmup_steps=4, progressive=0.3, per_image=0.5,
    regularisation=0.1, min_snr=5.0, norm_limit=1.5, weight_decay=0.01, start="statistics", captions=True, masks="alpha",
    background=0.1, timesteps="uniform",
)  # fmt: skip
SIDE = SideInformation(captions=("my {} asleep", None, "at night"), masks=HALF)


@pytest.mark.parametrize("at", [1, 9, EVERY, 18, 29])
def test_with_all_options_a_word_resumed_from_its_checkpoint_is_the_same_to_the_last_bit(
    at: int, backbone: Backbone
) -> None:
    """Catches state that an option keeps and a checkpoint does not: 9 and 18 are where a vector joins."""
    straight = finish(slot_of(backbone, ALL_AT_ONCE, THREE, SIDE), backbone)
    left = slot_of(backbone, ALL_AT_ONCE, THREE, SIDE)
    for _ in range(at):
        train_step(backbone, [left])
    kept = decode_checkpoint(encode_checkpoint(snapshot(left, "f" * 64)))
    assert kept is not None
    resumed = slot_of(backbone, ALL_AT_ONCE, THREE, SIDE)
    restore(resumed, kept)
    word = finish(resumed, backbone)
    assert word.vectors[ENCODER].tobytes() == straight.vectors[ENCODER].tobytes()
    assert (word.steps, word.loss) == (straight.steps, straight.loss)


def test_words_with_other_options_share_a_batch(backbone: Backbone) -> None:
    """Catches rows, weights or rates of one slot that reach its neighbours."""
    others = [replace(THREE, name=f"other-{number}") for number in range(2)]
    slots = [
        slot_of(backbone, ALL_AT_ONCE, others[0], SIDE),
        slot_of(backbone, SHORT),
        slot_of(backbone, ALL_AT_ONCE, others[1]),
    ]
    ended: dict[str, Word] = {}
    while slots:
        for slot, end in train_step(backbone, slots):
            assert isinstance(end, Word)
            slots.remove(slot)
            ended[slot.concept.name] = end
    alone = finish(slot_of(backbone, SHORT), backbone)
    np.testing.assert_allclose(ended[CAT.name].vectors[ENCODER], alone.vectors[ENCODER], atol=1e-4)
    with_beside = finish(slot_of(backbone, ALL_AT_ONCE, others[0], SIDE), backbone)
    np.testing.assert_allclose(ended["other-0"].vectors[ENCODER], with_beside.vectors[ENCODER], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "rates"),
    [
        ({}, (1.0, 1.0, 1.0)),
        ({"warmup_steps": 50}, (1 / 50, 1.0, 1.0)),
        ({"schedule": "linear"}, (1.0, 0.5, 0.01)),
        ({"schedule": "cosine"}, (1.0, 0.5, (1 + math.cos(0.99 * math.pi)) / 2)),
        ({"schedule": "linear", "warmup_steps": 20}, (0.05, 0.625, 0.0125)),
    ],
    ids=str,
)
def test_the_rate_over_the_budget(change: dict[str, object], rates: tuple[float, ...]) -> None:
    settings = replace(InversionSettings(steps=100, learning_rate=1.0), **change)  # type: ignore[arg-type]
    assert [rate_at(step, settings) for step in (0, 50, 99)] == pytest.approx(rates)


def test_adam_is_given_the_rate_of_the_step(backbone: Backbone) -> None:
    """Adam's first step is as long as its rate in every dimension: a tenth of it in a warm-up of ten steps."""
    for settings, wanted in ((SHORT, SHORT.learning_rate), (replace(SHORT, warmup_steps=9), SHORT.learning_rate / 9)):
        slot = slot_of(backbone, settings)
        train_step(backbone, [slot])
        moved = np.abs(slot.words[ENCODER].detach().numpy() - slot.initial[ENCODER])
        assert np.median(moved) == pytest.approx(wanted, rel=1e-3)


def test_vectors_join_one_after_the_other(backbone: Backbone) -> None:
    """Gal et al. 2022, section 5.2. Catches vectors that are all there from the beginning, and one that is never trained."""
    settings = replace(SHORT, progressive=0.3)
    slot = slot_of(backbone, settings, THREE)
    trained = []
    for _ in range(settings.steps):
        before = slot.words[ENCODER].detach().clone()
        train_step(backbone, [slot])
        trained.append((slot.words[ENCODER] - before).abs().amax(1).gt(0).tolist())
    assert trained == [[True, False, False]] * 3 + [[True, True, False]] * 3 + [[True, True, True]] * 4


def test_a_word_does_not_converge_before_its_last_vector_has_joined(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an early stop on the first vector's losses, and losses of other sentences compared with one another."""
    seen: list[int] = []

    def look(values: list[float], window: int) -> bool:
        seen.append(len(values))
        return True

    monkeypatch.setattr("pipeline.training.inversion.has_converged", look)
    word = finish(
        slot_of(backbone, replace(SHORT, steps=10 * EVERY, batch_size=8, early_stop="dvar", progressive=0.2), THREE),
        backbone,
    )
    assert (word.steps, word.stopped_by, set(seen)) == (4 * EVERY, "dvar", {1})


@pytest.mark.parametrize(("vectors", "share"), [(2, 0.99), (3, 0.4), (1, 0.9)])
def test_a_budget_that_ends_before_the_last_vector_joins_is_refused(vectors: int, share: float) -> None:
    replace(SHORT, progressive=share).refuse_vectors(vectors)
    with pytest.raises(ValueError, match=f"the last of {vectors + 2} vectors would join after the budget's end"):
        replace(SHORT, progressive=max(share, 0.5)).refuse_vectors(vectors + 2)


def test_a_pictures_own_word_takes_part_in_the_training_and_is_thrown_away(backbone: Backbone) -> None:
    """Gal et al. 2022, section 5.2. Catches own words that no prompt holds, that all pictures share, or that are kept."""
    settings = replace(SHORT, steps=30, per_image=0.5)
    slot = slot_of(backbone, settings, THREE)
    assert slot.words[ENCODER].shape[0] == 3 + len(PICTURES)
    start = slot.words[ENCODER].detach().clone()
    assert torch.equal(start[3], start[5])
    word = finish(slot, backbone)
    assert (slot.words[ENCODER] - start).abs().amax(1).gt(1e-3).all()
    assert not torch.equal(slot.words[ENCODER][3], slot.words[ENCODER][5])
    assert word.vectors[ENCODER].shape[0] == 3

    first = backbone.vocabulary
    drawn = draw(slot_of(backbone, replace(settings, batch_size=400), THREE), backbone, "step", 0, 400)
    own = [{each - first - 3 for each in ids.tolist() if each >= first + 3} for ids in drawn.tokens.ids]
    assert {each for some in own for each in some} == {0, 1, 2}
    assert max(len(each) for each in own) == 1
    assert sum(len(each) for each in own) / 400 == pytest.approx(0.5, abs=0.1)
    slot.posterior.std.zero_()
    drawn = draw(slot, backbone, "step", 0, 400)
    for latent, ids in zip(drawn.latents, drawn.tokens.ids, strict=True):
        picture = int((slot.posterior.mean - latent).abs().sum((1, 2, 3)).argmin()) % 3
        assert {each - first - 3 for each in ids.tolist() if each >= first + 3} <= {picture}
    validation = draw(slot, backbone, "validation", 0, 100)
    assert validation.tokens.ids.max() < first + 3, "what the word does without them is what counts"


def test_regularisation_is_the_squared_distance_to_the_initializers_vectors(backbone: Backbone) -> None:
    """Catches a pull towards anything else, such as where a word of noise began."""
    settings = replace(SHORT, steps=60, learning_rate=0.02, regularisation=1e4, start="statistics")
    wanted = backbone.initial_vectors("fire truck", 3)[ENCODER]
    slot = slot_of(backbone, settings, THREE)
    away = np.linalg.norm(slot.initial[ENCODER] - wanted)
    word = finish(slot, backbone)
    assert np.linalg.norm(word.vectors[ENCODER] - wanted) < 0.3 * away

    weight = 0.7
    slot = slot_of(backbone, replace(SHORT, regularisation=weight, learning_rate=1e-9), THREE)
    with torch.no_grad():
        slot.words[ENCODER].add_(0.1)
    (plain,) = torch.autograd.grad(
        losses(backbone, [slot], [draw(slot, backbone, "step", 0, 2)])[0], [slot.words[ENCODER]]
    )
    train_step(backbone, [slot])
    found = slot.means[ENCODER] / 0.1
    torch.testing.assert_close(found - plain, torch.full_like(plain, weight * 2 * 0.1 / 3), rtol=1e-3, atol=1e-6)


def test_the_norm_is_held_at_every_step(backbone: Backbone) -> None:
    usual = usual_norm(backbone)
    free = finish(slot_of(backbone, replace(SHORT, learning_rate=0.05), THREE), backbone)
    held = finish(slot_of(backbone, replace(SHORT, learning_rate=0.05, norm="vocabulary"), THREE), backbone)
    below = finish(slot_of(backbone, replace(SHORT, learning_rate=0.05, norm_limit=1.1), THREE), backbone)
    assert norms(free).max() > 1.2 * usual
    np.testing.assert_allclose(norms(held), usual, rtol=1e-5)
    assert norms(below).max() == pytest.approx(1.1 * usual, rel=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_timesteps_of_training_and_of_the_looks_at_it(gamma: float, either_model: Path) -> None:
    """Hang et al. 2023, equations 6 and 7: computed here from the schedule itself."""
    model = load_backbone(str(either_model))
    slot = slot_of(model, replace(SHORT, min_snr=gamma))
    drawn, plain = draw(slot, model, "step", 0, 16), draw(slot_of(model, SHORT), model, "step", 0, 16)
    kept = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)[drawn.timesteps]
    ratio = kept / (1 - kept)
    divisor = ratio + 1 if model.predicts_velocity else ratio
    wanted = torch.minimum(ratio, torch.tensor(gamma)) / divisor
    assert drawn.weights is not None
    torch.testing.assert_close(drawn.weights.flatten(), wanted, rtol=1e-3, atol=1e-6)
    assert torch.equal(drawn.timesteps, plain.timesteps)
    one = [draw(slot, model, "step", 0, 1), draw(slot_of(model, SHORT), model, "step", 0, 1)]
    weighed, unweighed = losses(model, [slot], one[:1])[0].item(), losses(model, [slot], one[1:])[0].item()
    assert weighed == pytest.approx(unweighed * one[0].weights.item(), rel=1e-4)  # type: ignore[union-attr]
    look = draw(slot, model, "validation", 0, 16)  # the word that looks best is to be the one that the training wants
    assert look.weights is not None
    kept = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)[look.timesteps]
    ratio = kept / (1 - kept)
    wanted = torch.minimum(ratio, torch.tensor(gamma)) / (ratio + 1 if model.predicts_velocity else ratio)
    torch.testing.assert_close(look.weights.flatten(), wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schedule": "stairs"}, "schedule is 'stairs'; it must be constant, linear or cosine"),
        ({"warmup_steps": 10}, "warm-up steps is 10; it must be from 0 to below 10 steps"),
        ({"start": "zeros"}, "start is 'zeros'; it must be words, statistics, nearest, pictures or fitted"),
        ({"start": "nearest"}, "start clip is ''; it must be the name of a CLIP"),
        (
            {"templates": ("a photo",)},
            "template is 'a photo'; it must be one line of at most 2,048 characters with one {}",
        ),
        ({"templates": ("{} and {}",)}, "characters with one {}"),
        ({"masks": "on"}, "masks is 'on'; it must be off, alpha or sidecar"),
        ({"background": 0.5}, "background is 0.5; it must be 0 without masks"),
        ({"progressive": 1.0}, "progressive is 1.0; it must be from 0 up to, not including, 1"),
        ({"per_image": 1.5}, "per-image words is 1.5; it must be a share from 0 to 1"),
        ({"regularisation": -1.0}, "regularisation is -1.0; it must be 0 or above"),
        ({"min_snr": math.nan}, "min-SNR gamma is nan; it must be 0 or above"),
        ({"norm": "unit"}, "norm is 'unit'; it must be free or vocabulary"),
        ({"norm_limit": -2.0}, "norm limit is -2.0; it must be 0 or above"),
        ({"norm": "vocabulary", "norm_limit": 2.0}, "norm limit is 2.0; it must be 0 where the norm is fixed"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused_with_what_could(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is compared below
        replace(SHORT, **change)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_with_weights_and_own_words_the_gradient_still_is_the_slope_of_the_loss(any_model: Path) -> None:
    """Catches weights that reach the loss and not its gradient, and a row of the table that belongs to another word."""
    torch.set_num_threads(1)
    exact = load_backbone(str(any_model), settings=ModelSettings("float64"))
    settings = replace(SHORT, min_snr=5.0, per_image=0.7, masks="alpha", background=0.2, captions=True)
    slot = slot_of(exact, settings, THREE, SIDE)
    drawn = draw(slot, exact, "step", 0, 6)
    assert drawn.weights is not None
    drawn = replace(drawn, latents=drawn.latents.double(), noise=drawn.noise.double(), weights=drawn.weights.double())
    found = torch.autograd.grad(losses(exact, [slot], [drawn])[0], list(slot.words.values()))
    for word, gradient in zip(slot.words.values(), found, strict=True):
        assert gradient[3:].abs().max() > 0, "a picture's own word has one too"
        direction = torch.randn(word.shape, generator=torch.Generator().manual_seed(0))
        start, values = word.detach().clone(), []
        # At smaller moves the words' own float32 rounds them away, at larger ones the loss is no straight line.
        for move in (1e-5, -1e-5, 0):
            with torch.no_grad():
                word.copy_(start + move * direction)
                values.append(losses(exact, [slot], [drawn])[0].item())
        tolerance = 1e-4 * (gradient.norm() * direction.norm()).item()
        assert (values[0] - values[1]) / 2e-5 == pytest.approx((gradient * direction).sum().item(), abs=tolerance)


def test_all_options_at_once_on_every_family(any_model: Path) -> None:
    """Catches an option that knows one text encoder, one prediction or one first stage."""
    torch.set_num_threads(1)
    model = load_backbone(str(any_model))
    before = model.weights_digest()
    word = finish(slot_of(model, replace(ALL_AT_ONCE, steps=8), THREE, SIDE), model)
    assert {name: vectors.shape for name, vectors in word.vectors.items()} == {
        name: (3, width) for name, width in model.encoders.items()
    }
    for name, vectors in word.vectors.items():
        assert (np.abs(vectors - word.initial[name]).max(axis=1) > 1e-6).all()
    assert model.weights_digest() == before
