"""Step checkpoints: what follows one is what would have followed without the interruption, to the last bit."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.settings import InversionSettings
from pipeline.store.checkpoints import Checkpoint, decode_checkpoint, encode_checkpoint
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from pipeline.training.early_stopping import look_every
from pipeline.training.inversion import Slot, end_of, new_slot, restore, snapshot, train_step
from tests.tiny_model import PIXELS

CAT = Concept("my-cat", (), "<my-cat>", initializer="cat", vectors=2)
EVERY = look_every(8)
SETTINGS = InversionSettings(steps=3 * EVERY, early_stop="dvar", batch_size=8)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, PIXELS, PIXELS, 3), np.uint8)
PRINT = "f" * 64


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    torch.set_num_threads(1)
    return load_backbone(str(epsilon_model))


def slot_of(backbone: Backbone, steps: int = 0, settings: InversionSettings = SETTINGS) -> Slot:
    slot = new_slot(CAT, PICTURES, backbone, settings)
    for _ in range(steps):
        train_step(backbone, [slot])
    return slot


def finish(slot: Slot, backbone: Backbone) -> Word:
    while (end := end_of(slot)) is None:
        train_step(backbone, [slot])
    assert isinstance(end, Word)
    return end


def stored(checkpoint: Checkpoint) -> Checkpoint:
    read = decode_checkpoint(encode_checkpoint(checkpoint))
    assert read is not None
    return read


@pytest.mark.parametrize("at", [0, 1, EVERY, 2 * EVERY + 3, SETTINGS.steps])
def test_a_word_resumed_from_its_checkpoint_is_the_same_to_the_last_bit(at: int, backbone: Backbone) -> None:
    """Catches moments, a step count or losses that a checkpoint forgets: the word would differ, or stop at another step."""
    straight = finish(slot_of(backbone), backbone)
    left = slot_of(backbone, at)
    resumed = slot_of(backbone)
    restore(resumed, stored(snapshot(left, PRINT)))
    word = finish(resumed, backbone)
    assert word.vectors["text_encoder"].tobytes() == straight.vectors["text_encoder"].tobytes()
    assert (word.steps, word.loss, word.stopped_by) == (straight.steps, straight.loss, straight.stopped_by)
    assert resumed.losses == finish_losses(backbone)
    assert word.initial["text_encoder"].tobytes() == straight.initial["text_encoder"].tobytes()


def finish_losses(backbone: Backbone) -> list[float]:
    slot = slot_of(backbone)
    finish(slot, backbone)
    return slot.losses


def test_a_checkpoint_is_a_copy_that_training_does_not_touch(backbone: Backbone) -> None:
    """Catches a checkpoint written a second after it was made, with the word of another step in it."""
    slot = slot_of(backbone, 2)
    kept = snapshot(slot, PRINT)
    before = encode_checkpoint(kept)
    train_step(backbone, [slot])
    assert encode_checkpoint(kept) == before


def test_the_seconds_of_an_interrupted_word_are_those_of_all_who_trained_it(backbone: Backbone) -> None:
    resumed = slot_of(backbone)
    restore(resumed, replace(snapshot(slot_of(backbone, 1), PRINT), seconds=1000.0))
    assert 1000 <= finish(resumed, backbone).seconds < 1500


def test_a_checkpoint_takes_a_few_kilobytes(backbone: Backbone) -> None:
    wide = {"text_encoder": np.zeros((1, 768), np.float32)}
    full = replace(
        snapshot(slot_of(backbone, 1), PRINT),
        vectors=wide,
        first_moments=wide,
        second_moments=wide,
        losses=(0.1,) * 300,
    )
    assert len(encode_checkpoint(full)) < 20_000


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "another file": lambda data: b"<html>not found</html>",
    "another version": lambda data: data.replace(b'"losses"', b'"lasses"'),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_checkpoint_counts_as_none(how: str, backbone: Backbone, tmp_path: Path) -> None:
    """Catches a concept that fails for ever on the broken rest of a file that it could do without."""
    run = RunFolder(Storage(str(tmp_path)))
    assert run.checkpoint(CAT.name) is None
    run.save_checkpoint(snapshot(slot_of(backbone, 1), PRINT))
    (path,) = (tmp_path / "_checkpoints").iterdir()
    assert run.checkpoint(CAT.name) is not None
    assert run.checkpointed() == [CAT.name]
    path.write_bytes(BROKEN[how](path.read_bytes()))
    assert run.checkpoint(CAT.name) is None
    run.forget_checkpoint(CAT.name)
    assert run.checkpointed() == []


def test_a_checkpoint_is_read_back_as_it_was(backbone: Backbone) -> None:
    kept = snapshot(slot_of(backbone, EVERY), PRINT)
    read = stored(kept)
    for field in fields(Checkpoint):
        one, other = getattr(kept, field.name), getattr(read, field.name)
        if isinstance(one, dict):
            assert {key: value.tobytes() for key, value in one.items()} == {
                key: value.tobytes() for key, value in other.items()
            }
        else:
            assert one == other
    assert all(array.dtype in (np.float32, np.uint8) for array in load(encode_checkpoint(kept)).values())
