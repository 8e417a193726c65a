"""A step's random draws: made on the CPU while the model works on the step before, and copied to it at once."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.models.base import Backbone, Tokens
from pipeline.randomness import torch_generator
from pipeline.settings import Timesteps
from pipeline.training.adam import factors
from pipeline.training.directional import turns
from pipeline.training.schedules import rate_at
from pipeline.training.sentences import Sentences
from pipeline.training.slot import Draws, Slot
from pipeline.training.transfer import brought
from pipeline.training.weighting import min_snr_weights

# One thread for the process. A draw depends on its arguments only.
AHEAD = ThreadPoolExecutor(1, thread_name_prefix="draws")


@dataclass(frozen=True, slots=True)
class Batch:
    """The draws of K slots one after the other, on the model's device: B pictures, and R rows of words.

    tokens: whose words begin where the table of all slots' words has them. shares: float32 (B,): of a slot's loss that a
    picture makes out. scales: float32 (R,), what the loss of a row's slot is multiplied by (precision.py); `shares` and `pull`
    hold it already. moves: float32 (3, R), what Adam does with each row; None where it has none. turns: float32 (2, R), what
    directional.py does with each row; None where it has none. pull: float32 (2, R), how many vectors a row's word has and the
    weight of its regularisation; None where no slot has any. bounds: text encoder -> float32 (2, R), the length that each row is
    held at (start_vectors.py); {} where none is.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tokens
    shares: Tensor
    scales: Tensor
    moves: Tensor | None = None
    turns: Tensor | None = None
    weights: Tensor | None = None
    pull: Tensor | None = None
    bounds: Mapping[str, Tensor] = field(default_factory=dict)


def draw(slot: Slot, backbone: Backbone, purpose: str, step: int, count: int) -> Draws:
    """`count` pictures, posterior samples, noises, timesteps and templates, fixed by (seed, concept, purpose, step)."""
    return _draw(slot, slot.sentences, backbone, purpose, step, count)


def _draw(slot: Slot, sentences: Sentences, backbone: Backbone, purpose: str, step: int, count: int) -> Draws:
    generator = torch_generator(slot.settings.seed, slot.concept.name, purpose, step)
    mean, std = slot.posterior.mean, slot.posterior.std
    choices, training = sentences.choices, purpose == "step"
    rows = torch.randint(len(mean), (count,), generator=generator)
    places = torch.randint(choices.shape[2], (count,), generator=generator)
    timesteps = backbone.times(
        _places(count, generator, slot.settings.timesteps),
        count,
        (mean.shape[2], mean.shape[3]),
        slot.settings.flow_times,
    )
    noise = torch.randn(2, count, *mean.shape[1:], generator=generator)
    own = None
    if training and slot.settings.per_image:
        own = torch.rand(count, generator=generator) < slot.settings.per_image
    weights = None if slot.weights is None else slot.weights[rows]
    if slot.settings.min_snr:
        by_time = min_snr_weights(backbone, timesteps, slot.settings.min_snr)[:, None, None, None]
        weights = by_time if weights is None else by_time * weights
    # The second half of the rows are the first half's pictures, mirrored.
    tokens = sentences.drawn(rows % choices.shape[1], places, own)
    return Draws(mean[rows] + std[rows] * noise[0], noise[1], timesteps, tokens, weights)


def _places(count: int, generator: torch.Generator, timesteps: Timesteps) -> Tensor:
    """float64 (count,) in [0, count): one from each of the intervals [0, 1), [1, 2), ... in random order, or each by itself.

    Spread or not, each time is uniform by itself, as in the low-discrepancy sampler of Kingma et al. 2021 ("Variational Diffusion
    Models", appendix I.1), whose intervals share one offset. compare.py --steps-curve has a recipe of each.
    """
    if timesteps == "uniform":
        return count * torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.randperm(count, generator=generator) + torch.rand(count, generator=generator, dtype=torch.float64)


def next_draws(backbone: Backbone, slots: Sequence[Slot]) -> list[Draws]:
    """The draws for the present step of each slot. Those of the next step are started, and made while the model works."""
    pending = [_pending(slot, backbone, slot.step) for slot in slots]
    draws = [future.result() for future in pending]
    for slot in slots:
        following = slot.step + 1
        slot.ahead = (following, _pending(slot, backbone, following)) if following < slot.settings.steps else None
    return draws


def _pending(slot: Slot, backbone: Backbone, step: int) -> Future[Draws]:
    if slot.ahead is not None and slot.ahead[0] == step:
        return slot.ahead[1]
    return AHEAD.submit(_draw, slot, slot.sentences_at(step), backbone, "step", step, slot.settings.batch_size)


def batch_of(backbone: Backbone, slots: Sequence[Slot], draws: Sequence[Draws]) -> Batch:
    """The draws on the model's device, copied there asynchronously."""
    counts, rows = [len(drawn.latents) for drawn in draws], [slot.rows for slot in slots]
    begins = np.cumsum([0, *rows[:-1]])
    scales = np.array([backbone.loss_scale(drawn.latents.numel()) for drawn in draws], np.float32)
    host = torch.cat([drawn.tokens.ids for drawn in draws])
    parts = {
        "latents": torch.cat([drawn.latents for drawn in draws]),
        "noise": torch.cat([drawn.noise for drawn in draws]),
        "timesteps": torch.cat([drawn.timesteps for drawn in draws]),
        "ids": host,
        "begins": torch.from_numpy(np.repeat(begins, counts)),
        "shares": torch.from_numpy(np.repeat(scales / np.array(counts, np.float32), counts)),
        "scales": torch.from_numpy(np.repeat(scales, rows)),
    }
    if any(drawn.weights is not None for drawn in draws):
        parts["weights"] = _weights_of(draws)
    if not all(slot.is_directional for slot in slots):
        moves = np.stack([_moves(slot) for slot in slots], 1)
        parts["moves"] = torch.from_numpy(np.repeat(moves, rows, axis=1))
    if any(slot.is_directional for slot in slots):
        parts["turns"] = torch.from_numpy(np.concatenate([_turns(slot) for slot in slots], axis=1))
    if any(slot.settings.regularisation for slot in slots):
        parts["pull"] = torch.from_numpy(
            np.concatenate([_pull(slot, scale) for slot, scale in zip(slots, scales, strict=True)], axis=1)
        )
    held = sorted({name for slot in slots for name in slot.hold_norm.usual})
    for name in held:
        bounds = [slot.hold_norm.bounds(name, slot.rows) for slot in slots]
        parts[name] = torch.from_numpy(np.concatenate(bounds, axis=1))
    there = brought(parts, backbone.device)
    held_at = {name: there.pop(name) for name in held}
    tokens = Tokens(there.pop("ids"), host).shifted(backbone.vocabulary, there.pop("begins")[:, None])
    return Batch(**there, tokens=tokens, bounds=held_at)


def _moves(slot: Slot) -> np.ndarray:
    """float32 (3,). At a rate of 0 Adam leaves the words of another optimiser as they are."""
    rate = 0.0 if slot.is_directional else rate_at(slot.step, slot.settings)
    return factors(slot.step, rate, slot.settings.weight_decay)


def _turns(slot: Slot) -> np.ndarray:
    """float32 (2, rows)."""
    rate = rate_at(slot.step, slot.settings) if slot.is_directional else 0.0
    return turns(rate, slot.settings.concentration, slot.rows, slot.concept.vectors)


def _pull(slot: Slot, scale: float) -> np.ndarray:
    """float32 (2, rows). A picture's own word is drawn nowhere."""
    vectors = slot.concept.vectors
    weights = np.where(np.arange(slot.rows) < vectors, slot.settings.regularisation * scale, 0)
    return np.stack([np.full(slot.rows, vectors), weights]).astype(np.float32)


def _weights_of(draws: Sequence[Draws]) -> Tensor:
    """(B, 1, h, w) or, where no place weighs more than another, (B, 1, 1, 1)."""
    if len({None if drawn.weights is None else drawn.weights.shape[1:] for drawn in draws}) == 1:
        return torch.cat([drawn.weights for drawn in draws if drawn.weights is not None])
    places = [drawn.latents[:, :1] for drawn in draws]
    return torch.cat(
        [
            torch.ones_like(place) if drawn.weights is None else drawn.weights.expand_as(place)
            for drawn, place in zip(draws, places, strict=True)
        ]
    )
