"""Directional words (Kim et al. 2025) on a tiny model: the step, the length, neighbours, and resuming."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.store.checkpoints import decode_checkpoint, encode_checkpoint
from pipeline.training import directional
from pipeline.training.inversion import Slot, draw, losses, new_slot, restore, snapshot, train_step
from tests.tiny_model import PIXELS

PLAIN = InversionSettings(steps=40, early_stop="off", batch_size=2)
DIRECTIONAL = replace(PLAIN, optimiser="directional", learning_rate=0.02, concentration=0.1)
EVERYTHING = replace(
    DIRECTIONAL, schedule="cosine", warmup_steps=3, progressive=0.3, per_image=0.5, min_snr=5.0, start="statistics"
)
TRUCK = Concept("truck", (), "<my-truck>", initializer="fire truck", vectors=3)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, PIXELS, PIXELS, 3), np.uint8)


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    torch.set_num_threads(1)
    return load_backbone(str(epsilon_model))


def slot_of(backbone: Backbone, settings: InversionSettings = DIRECTIONAL, name: str = "truck") -> Slot:
    return new_slot(replace(TRUCK, name=name), PICTURES, backbone, settings)


def copied(slot: Slot) -> dict[str, Tensor]:
    return {name: word.detach().clone() for name, word in slot.words.items()}


def usual_length(backbone: Backbone, encoder: str) -> float:
    return float(np.linalg.norm(backbone.vocabulary_vectors(encoder), axis=1).mean())


def reference(word: np.ndarray, gradient: np.ndarray, towards: np.ndarray, length: float, rate: float) -> np.ndarray:
    """One vector's step in float64, as the paper writes it: gradient and prior, tangent space, own norm, back to the sphere."""
    direction, mean = word / np.linalg.norm(word), towards / np.linalg.norm(towards)
    slope = length * gradient - DIRECTIONAL.concentration * mean
    tangent = slope - (slope @ direction) * direction
    turned = direction - rate * tangent / (np.linalg.norm(tangent) + 1e-8)
    return length * turned / np.linalg.norm(turned)


def test_a_step_is_that_of_a_plain_reference(any_model: Path) -> None:
    """Catches a gradient that is not of the direction, a prior towards elsewhere, and a step along the word itself."""
    torch.set_num_threads(1)
    model = load_backbone(str(any_model))
    slot = slot_of(model)
    initializer = model.initial_vectors(TRUCK.initializer, 3)
    for _ in range(3):  # the second and third begin beside the initializer, where the prior is felt
        before = copied(slot)
        loss = losses(model, [slot], [draw(slot, model, "step", slot.step, 2)])[0]
        gradients = torch.autograd.grad(loss, list(slot.words.values()))
        train_step(model, [slot])
        for (name, old), gradient in zip(before.items(), gradients, strict=True):
            length = usual_length(model, name)
            for row in range(3):
                wanted = reference(
                    old[row].double().numpy(), gradient[row].double().numpy(), initializer[name][row].astype(float), length, 0.02
                )  # fmt: skip
                np.testing.assert_allclose(slot.words[name][row].detach().numpy(), wanted, atol=1e-5 * length)


def test_every_vector_keeps_the_vocabularys_mean_length(any_model: Path) -> None:
    """Catches lengths that drift, or that are another text encoder's."""
    torch.set_num_threads(1)
    model = load_backbone(str(any_model))
    slot = slot_of(model, EVERYTHING)
    for _ in range(EVERYTHING.steps):
        train_step(model, [slot])
        for name, word in slot.words.items():
            np.testing.assert_allclose(word.detach().norm(dim=1).numpy(), usual_length(model, name), rtol=1e-6)


def test_the_prior_draws_a_word_towards_its_initializer(backbone: Backbone) -> None:
    def cosine(concentration: float) -> float:
        slot = slot_of(backbone, replace(DIRECTIONAL, concentration=concentration, start="statistics"))
        for _ in range(DIRECTIONAL.steps):
            train_step(backbone, [slot])
        wanted = torch.from_numpy(backbone.initial_vectors(TRUCK.initializer, 3)["text_encoder"])
        return float(torch.cosine_similarity(slot.words["text_encoder"].detach(), wanted).mean())

    assert cosine(1e3) > cosine(0.0) + 0.2


def test_a_vector_that_no_prompt_holds_stays_where_it_is(backbone: Backbone) -> None:
    """Catches a prior that moves a vector which has not joined yet, by a whole step each time."""
    slot = slot_of(backbone, replace(DIRECTIONAL, progressive=0.3, start="statistics"))
    before = copied(slot)["text_encoder"]
    train_step(backbone, [slot])
    moved = (slot.words["text_encoder"] - before).abs().amax(1).gt(0).tolist()
    assert moved == [True, False, False]


@pytest.mark.parametrize("width", [32, 768, 4096])
def test_a_slots_rows_turn_the_same_to_the_last_bit_alone_and_beside_others(width: int) -> None:
    """Catches sums over neighbours' rows, and rows of Adam that are touched."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    words, gradient, anchors = (torch.randn(6, width, generator=generator) for _ in range(3))
    told = torch.tensor([[0.0, 0.01, 0.01, 0.01, 0.3, 0.3], [0.5] * 6])
    together = words.clone()
    directional.update(together, gradient, anchors, told)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        alone = words[rows].clone()
        directional.update(alone, gradient[rows], anchors[rows], told[:, rows])
        assert torch.equal(alone, together[rows])
    assert torch.equal(together[0], words[0])


def test_words_of_both_optimisers_share_a_batch(backbone: Backbone) -> None:
    """Catches a word that learns by its neighbour's optimiser."""
    together = [slot_of(backbone), slot_of(backbone, PLAIN, "other"), slot_of(backbone, EVERYTHING, "third")]
    alone = [slot_of(backbone), slot_of(backbone, PLAIN, "other"), slot_of(backbone, EVERYTHING, "third")]
    for _ in range(5):
        train_step(backbone, together)
        for slot in alone:
            train_step(backbone, [slot])
    for beside, single in zip(together, alone, strict=True):
        np.testing.assert_allclose(
            beside.words["text_encoder"].detach(), single.words["text_encoder"].detach(), atol=1e-4
        )


@pytest.mark.parametrize("at", [1, 17, 39])
def test_a_word_resumed_from_its_checkpoint_is_the_same_to_the_last_bit(at: int, backbone: Backbone) -> None:
    straight = slot_of(backbone, EVERYTHING)
    left = slot_of(backbone, EVERYTHING)
    for _ in range(EVERYTHING.steps):
        train_step(backbone, [straight])
    for _ in range(at):
        train_step(backbone, [left])
    kept = decode_checkpoint(encode_checkpoint(snapshot(left, "f" * 64)))
    assert kept is not None
    resumed = slot_of(backbone, EVERYTHING)
    restore(resumed, kept)
    for _ in range(EVERYTHING.steps - at):
        train_step(backbone, [resumed])
    assert all(torch.equal(resumed.words[name], word) for name, word in straight.words.items())
    assert resumed.losses == straight.losses


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight_decay": 0.1}, "weight decay is 0.1; it must be 0 with the directional optimiser"),
        ({"norm": "vocabulary"}, "norm is 'vocabulary'; it must be free with the directional optimiser"),
        ({"norm_limit": 2.0}, "norm limit is 2.0; it must be 0 with the directional optimiser"),
        ({"regularisation": 0.1}, "regularisation is 0.1; it must be 0 with the directional optimiser"),
        ({"concentration": math.inf}, "concentration is inf; it must be 0 or above"),
        ({"optimiser": "sgd"}, "optimiser is 'sgd'; it must be adamw or directional"),
        ({"optimiser": "adamw"}, "concentration is 0.1; it must be 0.0001 without the directional optimiser"),
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_with_it_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is compared below
        replace(DIRECTIONAL, **change)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_only_a_directional_words_settings_are_in_its_fingerprint() -> None:
    """Catches an old run's words that are learned anew."""
    assert not {"optimiser", "concentration"} & PLAIN.fingerprinted().keys()
    assert {"optimiser", "concentration"} <= DIRECTIONAL.fingerprinted().keys()
