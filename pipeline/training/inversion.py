"""Textual Inversion (Gal et al. 2022, equation 2) of several concepts at once, each in its own slot of one batch.

    v* = argmin_v E[ || target - eps_theta(z_t, t, c(y(v))) ||^2 ]

The weights are frozen, so the concepts' gradients are independent. Each slot has its own optimiser state, randomness and end,
and does not depend on its neighbours. A finished concept leaves its slot, and the next one enters at the following step.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.models.base import Backbone
from pipeline.models.device_memory import full_memory, give_memory_back
from pipeline.records import StoppedBy, Word
from pipeline.store.checkpoints import Checkpoint
from pipeline.training import adam, directional
from pipeline.training.draws import Batch, batch_of, draw, next_draws
from pipeline.training.early_stopping import (
    EARLIEST,
    VALIDATION_IMAGES,
    has_converged,
    has_settled,
    is_look,
    look_every,
    window_of,
)
from pipeline.training.slot import Draws, SideInformation, Slot, new_slot
from pipeline.training.start_vectors import hold
from pipeline.training.weighting import distance

__all__ = [
    "DivergedError", "Draws", "InversionError", "SideInformation", "Slot", "draw", "end_of", "finished", "losses",
    "new_slot", "restore", "snapshot", "train_step", "validate",
]  # fmt: skip


class InversionError(Exception):
    """The training of a concept cannot go on."""


class DivergedError(InversionError):
    """The loss or the word is not finite. A lower learning rate may help."""


def snapshot(slot: Slot, fingerprint: str) -> Checkpoint:
    """The slot's state, copied to the CPU: all that its next step depends on."""

    def copied(tables: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return {encoder: _copied(table) for encoder, table in tables.items()}

    return Checkpoint(
        concept=slot.concept.name,
        fingerprint=fingerprint,
        step=slot.step,
        learning_rate=slot.settings.learning_rate,
        seconds=slot.seconds,
        losses=tuple(slot.losses),
        vectors=copied(slot.words),
        first_moments=copied(slot.means) if slot.step else {},
        second_moments=copied(slot.squares) if slot.step else {},
        best=copied(slot.best),
    )


def restore(slot: Slot, checkpoint: Checkpoint) -> None:
    """Restores a new slot from a snapshot. Training goes on bit-identically."""
    slot.step, slot.losses, slot.seconds_before = checkpoint.step, list(checkpoint.losses), checkpoint.seconds
    pairs: list[tuple[Mapping[str, Tensor], Mapping[str, np.ndarray]]] = [(slot.words, checkpoint.vectors)]
    if checkpoint.step:
        pairs += [(slot.means, checkpoint.first_moments), (slot.squares, checkpoint.second_moments)]
    slot.best = {
        name: torch.from_numpy(rows.copy()).to(slot.words[name].device) for name, rows in checkpoint.best.items()
    }
    with torch.no_grad():
        for tables, kept in pairs:
            for encoder, table in tables.items():
                table.copy_(torch.from_numpy(kept[encoder].copy()))


def _copied(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()


@full_memory()
def losses(backbone: Backbone, slots: Sequence[Slot], draws: Sequence[Draws]) -> Tensor:
    """(K,): each slot's mean squared error over its own pictures, as many for each, in one pass through the model."""
    return _errors(backbone, _stacked(slots, "words"), batch_of(backbone, slots, draws)).view(len(slots), -1).mean(1)


def _stacked(slots: Sequence[Slot], tables: str) -> dict[str, Tensor]:
    """Text encoder -> (R, D): the slots' words or moments, one below the other."""
    by_slot = [getattr(slot, tables) for slot in slots]
    return {name: torch.cat([table[name] for table in by_slot]) for name in by_slot[0]}


def _errors(backbone: Backbone, words: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """(B,): of each picture the mean squared error, weighed."""
    context = backbone.embed(batch.tokens, words)
    noisy = backbone.add_noise(batch.latents, batch.noise, batch.timesteps)
    predict = backbone.predict_in_training if torch.is_grad_enabled() else backbone.predict
    predicted = predict(noisy, batch.timesteps, context)
    squares = (predicted - backbone.target(batch.latents, batch.noise, batch.timesteps)).square()
    if batch.weights is not None:
        squares = squares * batch.weights
    return squares.mean((1, 2, 3))


@full_memory()
def train_step(backbone: Backbone, slots: list[Slot]) -> list[tuple[Slot, Word | InversionError]]:
    """One optimiser step of every slot; returns those that came to their end with it.

    The model's work is the same number of calls for one slot and for many, and none of them waits for the device.
    Raises torch.OutOfMemoryError with the slots as they were.
    """
    # The whole fall of a loss begins before the first step.
    validate(backbone, [slot for slot in slots if _is_watched(slot) and not slot.losses])
    batch = batch_of(backbone, slots, next_draws(backbone, slots))
    with torch.no_grad():
        words, means, squares = (_stacked(slots, tables) for tables in ("words", "means", "squares"))
    for table in words.values():
        table.requires_grad_()
    loss = (_errors(backbone, words, batch) * batch.shares).sum() + _penalty(slots, words, batch)
    gradients = torch.autograd.grad(loss, list(words.values()))
    anchors = _anchors(slots, words) if batch.turns is not None else {}
    for name, scaled in zip(words, gradients, strict=True):
        gradient = scaled / batch.scales[:, None]
        if batch.moves is not None:
            adam.update(words[name], gradient, means[name], squares[name], batch.moves)
        if batch.turns is not None:
            directional.update(words[name], gradient, anchors[name], batch.turns)
        if name in batch.bounds:
            hold(words[name], batch.bounds[name])
    for tables, stacked in (("words", words), ("means", means), ("squares", squares)):
        _share_out(slots, tables, stacked)
    for slot in slots:
        slot.step += 1
        if any(slot.step == first for first, _ in slot.stages):
            slot.losses.clear()  # of other sentences, with which those to come cannot be compared
            slot.best = {}
    validate(backbone, [slot for slot in slots if _is_due(slot)])
    return [(slot, end) for slot in slots if (end := end_of(slot)) is not None]


def learn_to_the_end(backbone: Backbone, slot: Slot) -> Word:
    """Trains one word alone. Raises InversionError."""
    while not (ended := train_step(backbone, [slot])):
        pass
    ((_, word),) = ended
    if isinstance(word, InversionError):
        raise word
    return word


@torch.no_grad()
def _share_out(slots: Sequence[Slot], tables: str, stacked: Mapping[str, Tensor]) -> None:
    """Writes what `_stacked` put together back to the slots."""
    for name, rows in stacked.items():
        own = [getattr(slot, tables)[name] for slot in slots]
        torch._foreach_copy_(own, rows.split([slot.rows for slot in slots]))


def _penalty(slots: Sequence[Slot], words: Mapping[str, Tensor], batch: Batch) -> Tensor | float:
    """What regularisation adds to the loss."""
    if batch.pull is None:
        return 0.0
    return distance(words, _anchors(slots, words), *batch.pull.unbind())


@torch.no_grad()
def _anchors(slots: Sequence[Slot], encoders: Iterable[str]) -> dict[str, Tensor]:
    """Text encoder -> (R, D). The words of a slot without anchors stand for themselves."""
    return {name: torch.cat([(slot.anchors or slot.words)[name] for slot in slots]) for name in encoders}


def _is_due(slot: Slot) -> bool:
    # The last step is always looked at: a word is not committed unless its loss is finite.
    return slot.step >= slot.settings.steps or (
        slot.step > 0 and is_look(slot.step, slot.settings.early_stop, slot.settings.batch_size)
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
    """Adds each slot's loss on its fixed batch to its losses; by halves where they do not fit into memory."""
    if not slots:
        return
    draws = [draw(slot, backbone, "validation", 0, VALIDATION_IMAGES) for slot in slots]
    for slot, value in zip(slots, _looks(backbone, slots, draws), strict=True):
        slot.losses.append(value)
        if slot.settings.early_stop == "settled" and value == min(slot.losses):
            slot.best = {name: word.detach().clone() for name, word in slot.words.items()}


def _looks(backbone: Backbone, slots: Sequence[Slot], draws: Sequence[Draws]) -> list[float]:
    """`losses`, on the host. A step has been taken by now, which a look that runs out of memory must not undo."""
    try:
        values: list[float] = losses(backbone, slots, draws).tolist()
    except torch.OutOfMemoryError:
        if len(slots) == len(draws[0].latents) == 1:
            raise
    else:
        return values
    give_memory_back()
    if len(slots) > 1:
        half = len(slots) // 2
        return _looks(backbone, slots[:half], draws[:half]) + _looks(backbone, slots[half:], draws[half:])
    half = len(draws[0].latents) // 2
    (one,), (other,) = (_looks(backbone, slots, [draws[0].some(part)]) for part in (slice(half), slice(half, None)))
    return [(one + other) / 2]


def end_of(slot: Slot) -> Word | InversionError | None:
    """The finished word, or the reason why there will be none; None in mid-training."""
    if slot.losses and not np.isfinite(slot.losses[-1]):
        return DivergedError(f"the loss stopped being a number by step {slot.step}")
    if slot.step >= slot.settings.steps:
        return finished(slot, "steps")
    rule = slot.settings.early_stop
    return finished(slot, rule) if rule != "off" and _has_converged(slot) else None


def finished(slot: Slot, stopped_by: StoppedBy) -> Word | InversionError:
    kept = slot.best or slot.words  # the best one looked at, where the rule keeps it
    vectors = {name: _copied(value)[: slot.concept.vectors] for name, value in kept.items()}
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
        loss=min(slot.losses) if slot.best else slot.losses[-1],
        seconds=slot.seconds,
    )
