"""Textual Inversion (Gal et al. 2022, equation 2) of several concepts at once, each in its own slot of one batch.

    v* = argmin_v E[ || target - eps_theta(z_t, t, c(y(v))) ||^2 ]

Frozen weights make the concepts' gradients independent, so that a slot's word has its own optimiser, randomness and end,
and does not depend on its neighbours. A concept that stops leaves its slot; the next one enters at the following step.
"""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import Backbone, Posterior, Tokens
from pipeline.early_stopping import EVERY, has_converged
from pipeline.randomness import torch_generator
from pipeline.records import Concept, Word
from pipeline.settings import InversionSettings
from pipeline.templates import templates_for

VALIDATION_IMAGES = 8


class InversionError(Exception):
    """A concept whose training cannot go on: a loss or a word that is not finite."""


@dataclass(frozen=True, slots=True)
class Draws:
    """All that is random in one step of one concept, for B pictures.

    latents, noise: float32 (B, C, h, w). timesteps: int64 (B,). tokens: ids of the B prompts.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tokens


@dataclass(slots=True)
class Slot:
    """One concept in training: its word, optimiser and progress."""

    concept: Concept
    settings: InversionSettings
    posterior: Posterior
    templates: Tokens
    words: dict[str, torch.nn.Parameter]
    initial: dict[str, np.ndarray]
    optimiser: torch.optim.Optimizer
    began: float = field(default_factory=time.monotonic)
    step: int = 0
    losses: list[float] = field(default_factory=list)


def new_slot(concept: Concept, pixels: np.ndarray, backbone: Backbone, settings: InversionSettings) -> Slot:
    """Caches the latent posteriors of both flips and tokenises the templates.

    pixels: uint8 (N, R, R, 3). Raises PromptError when the word or its templates do not suit the tokenizer.
    """
    backbone.refuse_placeholder(concept.placeholder)
    both = np.concatenate([pixels, pixels[:, :, ::-1]]) if settings.flip else pixels
    initial = backbone.initial_vectors(concept.initializer, concept.vectors)
    words = {
        name: torch.nn.Parameter(torch.tensor(vectors, dtype=torch.float32, device=backbone.device))
        for name, vectors in initial.items()
    }
    prompts = [template.format(concept.placeholder) for template in templates_for(concept.kind)]
    return Slot(
        concept=concept,
        settings=settings,
        initial=initial,
        words=words,
        posterior=backbone.encode_images(np.ascontiguousarray(both)),
        templates=backbone.tokenise(prompts, {concept.placeholder: range(concept.vectors)}),
        optimiser=torch.optim.AdamW(words.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay),
    )


def draw(slot: Slot, backbone: Backbone, purpose: str, step: int, count: int) -> Draws:
    """`count` pictures, posterior samples, noises, timesteps and templates, fixed by (seed, concept, purpose, step)."""
    chance = torch_generator(slot.settings.seed, slot.concept.name, purpose, step)
    mean, std = slot.posterior.mean, slot.posterior.std
    rows = torch.randint(len(mean), (count,), generator=chance)
    prompts = torch.randint(len(slot.templates.ids), (count,), generator=chance)
    timesteps = torch.randint(backbone.timesteps, (count,), generator=chance)
    noise = torch.randn(2, count, *mean.shape[1:], generator=chance).to(backbone.device, non_blocking=True)
    return Draws(
        mean[rows] + std[rows] * noise[0], noise[1], timesteps.to(backbone.device), Tokens(slot.templates.ids[prompts])
    )


def losses(backbone: Backbone, slots: list[Slot], draws: list[Draws]) -> list[Tensor]:
    """Each slot's mean squared error over its own pictures, in one pass through the model: K scalars."""
    shifted, rows = [], 0
    for slot, drawn in zip(slots, draws, strict=True):
        shifted.append(drawn.tokens.shifted(backbone.vocabulary, rows).ids)
        rows += slot.concept.vectors
    words = {name: torch.cat([slot.words[name] for slot in slots]) for name in backbone.encoders}
    context = backbone.embed(Tokens(torch.cat(shifted)), words)
    latents, noise, timesteps = (
        torch.cat([getattr(drawn, name) for drawn in draws]) for name in ("latents", "noise", "timesteps")
    )
    predicted = backbone.predict(backbone.add_noise(latents, noise, timesteps), timesteps, context)
    errors = (predicted - backbone.target(latents, noise, timesteps)).square().mean((1, 2, 3))
    return [some.mean() for some in errors.split([len(drawn.latents) for drawn in draws])]


def train_step(backbone: Backbone, slots: list[Slot]) -> list[tuple[Slot, Word | InversionError]]:
    """One optimiser step of every slot; returns those that came to their end with it."""
    draws = [draw(slot, backbone, "step", slot.step, slot.settings.batch_size) for slot in slots]
    torch.stack(losses(backbone, slots, draws)).sum().backward()
    for slot in slots:
        slot.optimiser.step()
        slot.optimiser.zero_grad()
        slot.step += 1
    _validate(backbone, [slot for slot in slots if _is_due(slot)])
    return [(slot, end) for slot in slots if (end := _end(slot)) is not None]


def _is_due(slot: Slot) -> bool:
    # The last step is always looked at: a word is not committed unless its loss is finite.
    return slot.step >= slot.settings.steps or (slot.settings.early_stop == "dvar" and slot.step % EVERY == 0)


@torch.no_grad()
def _validate(backbone: Backbone, slots: list[Slot]) -> None:
    if slots:
        draws = [draw(slot, backbone, "validation", 0, VALIDATION_IMAGES) for slot in slots]
        values = torch.stack(losses(backbone, slots, draws)).tolist()
        for slot, value in zip(slots, values, strict=True):
            slot.losses.append(value)


def _end(slot: Slot) -> Word | InversionError | None:
    if slot.losses and not np.isfinite(slot.losses[-1]):
        return InversionError(f"the loss stopped being a number by step {slot.step}; try a lower learning rate")
    if slot.step >= slot.settings.steps:
        return finished(slot, "steps")
    if slot.settings.early_stop == "dvar" and _is_due(slot) and has_converged(slot.losses):
        return finished(slot, "dvar")
    return None


def finished(slot: Slot, stopped_by: str) -> Word | InversionError:
    vectors = {name: value.detach().cpu().numpy().copy() for name, value in slot.words.items()}
    if not all(np.isfinite(value).all() for value in vectors.values()):
        return InversionError(f"the word stopped being finite by step {slot.step}; try a lower learning rate")
    return Word(
        concept=slot.concept.name,
        placeholder=slot.concept.placeholder,
        vectors=vectors,
        initial=slot.initial,
        initializer=slot.concept.initializer or "",
        steps=slot.step,
        stopped_by="dvar" if stopped_by == "dvar" else "steps",
        learning_rate=slot.settings.learning_rate,
        loss=slot.losses[-1],
        seconds=time.monotonic() - slot.began,
    )
