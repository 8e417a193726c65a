"""Textual Inversion (Gal et al. 2022, equation 2) of several concepts at once, each in its own slot of one batch.

    v* = argmin_v E[ || target - eps_theta(z_t, t, c(y(v))) ||^2 ]

Frozen weights make the concepts' gradients independent, so that a slot's word has its own optimiser, randomness and end,
and does not depend on its neighbours. A concept that stops leaves its slot; the next one enters at the following step.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.models.base import Backbone, Tokens
from pipeline.randomness import torch_generator
from pipeline.records import StoppedBy, Word
from pipeline.store.checkpoints import Checkpoint
from pipeline.training.early_stopping import (
    EARLIEST,
    VALIDATION_IMAGES,
    has_converged,
    has_settled,
    look_every,
    window_of,
)
from pipeline.training.schedules import rate_at
from pipeline.training.slot import Beside, Slot, new_slot
from pipeline.training.weighting import distance, min_snr_weights

__all__ = [
    "Beside", "DivergedError", "Draws", "InversionError", "Slot", "draw", "end_of", "finished", "losses", "new_slot",
    "restore", "snapshot", "train_step", "validate",
]  # fmt: skip


class InversionError(Exception):
    """A concept whose training cannot go on."""


class DivergedError(InversionError):
    """A loss or a word that is not finite: a lower learning rate may help."""


@dataclass(frozen=True, slots=True)
class Draws:
    """All that is random in one step of one concept, for B pictures.

    latents, noise: float32 (B, C, h, w). timesteps: int64 (B,). tokens: ids of the B prompts.
    weights: float32 (B, 1, h, w) or (B, 1, 1, 1), of the squared errors; None where all weigh the same.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tokens
    weights: Tensor | None = None


def snapshot(slot: Slot, fingerprint: str) -> Checkpoint:
    """All that the slot's next step depends on, copied to the CPU."""

    def moments(name: str) -> dict[str, np.ndarray]:
        # Adam keeps nothing before its first step.
        states = {encoder: slot.optimiser.state.get(word, {}) for encoder, word in slot.words.items()}
        return {encoder: _copied(state[name]) for encoder, state in states.items() if name in state}

    return Checkpoint(
        concept=slot.concept.name,
        fingerprint=fingerprint,
        step=slot.step,
        learning_rate=slot.settings.learning_rate,
        seconds=slot.seconds,
        losses=tuple(slot.losses),
        vectors={encoder: _copied(word.detach()) for encoder, word in slot.words.items()},
        first_moments=moments("exp_avg"),
        second_moments=moments("exp_avg_sq"),
    )


def restore(slot: Slot, checkpoint: Checkpoint) -> None:
    """Takes a new slot to where `snapshot` was made: what follows is the same to the last bit."""
    slot.step, slot.losses, slot.seconds_before = checkpoint.step, list(checkpoint.losses), checkpoint.seconds
    for encoder, word in slot.words.items():
        with torch.no_grad():
            word.copy_(torch.from_numpy(checkpoint.vectors[encoder].copy()))
        if checkpoint.step:
            slot.optimiser.state[word] = {
                "step": torch.tensor(float(checkpoint.step)),
                "exp_avg": torch.from_numpy(checkpoint.first_moments[encoder].copy()).to(word.device),
                "exp_avg_sq": torch.from_numpy(checkpoint.second_moments[encoder].copy()).to(word.device),
            }


def _copied(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()


def draw(slot: Slot, backbone: Backbone, purpose: str, step: int, count: int) -> Draws:
    """`count` pictures, posterior samples, noises, timesteps and templates, fixed by (seed, concept, purpose, step)."""
    chance = torch_generator(slot.settings.seed, slot.concept.name, purpose, step)
    mean, std = slot.posterior.mean, slot.posterior.std
    choices, training = slot.sentences.choices, purpose == "step"
    rows = torch.randint(len(mean), (count,), generator=chance)
    places = torch.randint(choices.shape[2], (count,), generator=chance)
    timesteps = _spread(backbone.timesteps, count, chance)
    noise = torch.randn(2, count, *mean.shape[1:], generator=chance).to(backbone.device, non_blocking=True)
    own = None
    if training and slot.settings.per_image:
        own = torch.rand(count, generator=chance) < slot.settings.per_image
    timesteps = timesteps.to(backbone.device)
    weights = None if slot.weights is None else slot.weights[rows]
    if training and slot.settings.min_snr:
        by_time = min_snr_weights(backbone, timesteps, slot.settings.min_snr)[:, None, None, None]
        weights = by_time if weights is None else by_time * weights
    # The second half of the rows are the first half's pictures, mirrored.
    tokens = slot.sentences.drawn(rows % choices.shape[1], places, own)
    return Draws(mean[rows] + std[rows] * noise[0], noise[1], timesteps, tokens, weights)


def _spread(timesteps: int, count: int, chance: torch.Generator) -> Tensor:
    """int64 (count,), one from each of as many equal parts of 0 .. timesteps - 1, in random order.

    Each is uniform by itself, but what noisy and what nearly clean pictures teach varies less from step to step (Kingma et
    al. 2021, "Variational Diffusion Models", section 4: the low-discrepancy sampler).
    """
    places = torch.randperm(count, generator=chance) + torch.rand(count, generator=chance, dtype=torch.float64)
    return (places * (timesteps / count)).long().clamp_(max=timesteps - 1)


def losses(backbone: Backbone, slots: list[Slot], draws: list[Draws]) -> list[Tensor]:
    """Each slot's mean squared error over its own pictures, in one pass through the model: K scalars."""
    shifted, rows = [], 0
    for slot, drawn in zip(slots, draws, strict=True):
        shifted.append(drawn.tokens.shifted(backbone.vocabulary, rows).ids)
        rows += slot.rows
    words = {name: torch.cat([slot.words[name] for slot in slots]) for name in backbone.encoders}
    context = backbone.embed(Tokens(torch.cat(shifted)), words)
    latents, noise, timesteps = (
        torch.cat([getattr(drawn, name) for drawn in draws]) for name in ("latents", "noise", "timesteps")
    )
    predicted = backbone.predict(backbone.add_noise(latents, noise, timesteps), timesteps, context)
    squares = (predicted - backbone.target(latents, noise, timesteps)).square()
    if any(drawn.weights is not None for drawn in draws):
        squares = squares * torch.cat([_weights_of(drawn) for drawn in draws])
    return [some.mean() for some in squares.mean((1, 2, 3)).split([len(drawn.latents) for drawn in draws])]


def _weights_of(drawn: Draws) -> Tensor:
    """(B, 1, h, w)"""
    places = drawn.latents[:, :1]
    return torch.ones_like(places) if drawn.weights is None else drawn.weights.expand_as(places)


def train_step(backbone: Backbone, slots: list[Slot]) -> list[tuple[Slot, Word | InversionError]]:
    """One optimiser step of every slot; returns those that came to their end with it."""
    # The whole fall of a loss begins before the first step.
    validate(backbone, [slot for slot in slots if _is_watched(slot) and not slot.losses])
    draws = [draw(slot, backbone, "step", slot.step, slot.settings.batch_size) for slot in slots]
    torch.stack(losses(backbone, slots, draws) + _penalties(slots)).sum().backward()
    for slot in slots:
        for group in slot.optimiser.param_groups:
            group["lr"] = rate_at(slot.step, slot.settings)
        slot.optimiser.step()
        slot.optimiser.zero_grad()
        slot.hold_norm(slot.words)
        slot.step += 1
        if any(slot.step == first for first, _ in slot.stages):
            slot.losses.clear()  # of other sentences, with which those to come cannot be compared
    validate(backbone, [slot for slot in slots if _is_due(slot)])
    return [(slot, end) for slot in slots if (end := end_of(slot)) is not None]


def _penalties(slots: list[Slot]) -> list[Tensor]:
    return [
        slot.settings.regularisation
        * distance({name: word[: slot.concept.vectors] for name, word in slot.words.items()}, slot.anchors)
        for slot in slots
        if slot.anchors
    ]


def _is_due(slot: Slot) -> bool:
    # The last step is always looked at: a word is not committed unless its loss is finite.
    return slot.step >= slot.settings.steps or (
        _is_watched(slot) and slot.step % look_every(slot.settings.batch_size) == 0
    )


def _is_watched(slot: Slot) -> bool:
    return slot.settings.early_stop != "off"


def _has_converged(slot: Slot) -> bool:
    if slot.step < slot.stages[-1][0] or not _is_due(slot):
        return False
    if slot.settings.early_stop == "settled":
        return slot.step >= EARLIEST * slot.settings.steps and has_settled(slot.losses)
    return has_converged(slot.losses, window=window_of(look_every(slot.settings.batch_size)))


@torch.no_grad()
def validate(backbone: Backbone, slots: list[Slot]) -> None:
    """Adds each slot's loss on its fixed batch to its losses."""
    if slots:
        draws = [draw(slot, backbone, "validation", 0, VALIDATION_IMAGES) for slot in slots]
        values = torch.stack(losses(backbone, slots, draws)).tolist()
        for slot, value in zip(slots, values, strict=True):
            slot.losses.append(value)


def end_of(slot: Slot) -> Word | InversionError | None:
    """The word, once there is no step left to take, or why there will be none; None in mid-training."""
    if slot.losses and not np.isfinite(slot.losses[-1]):
        return DivergedError(f"the loss stopped being a number by step {slot.step}")
    if slot.step >= slot.settings.steps:
        return finished(slot, "steps")
    rule = slot.settings.early_stop
    return finished(slot, rule) if rule != "off" and _has_converged(slot) else None


def finished(slot: Slot, stopped_by: StoppedBy) -> Word | InversionError:
    vectors = {name: _copied(value)[: slot.concept.vectors] for name, value in slot.words.items()}
    if not all(np.isfinite(value).all() for value in vectors.values()):
        return DivergedError(f"the word stopped being finite by step {slot.step}")
    return Word(
        concept=slot.concept.name,
        placeholder=slot.concept.placeholder,
        vectors=vectors,
        initial=slot.initial,
        initializer=slot.concept.initializer or "",
        steps=slot.step,
        stopped_by=stopped_by,
        learning_rate=slot.settings.learning_rate,
        loss=slot.losses[-1],
        seconds=slot.seconds,
    )
