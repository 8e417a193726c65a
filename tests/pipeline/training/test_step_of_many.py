"""One step of many slots: the work of one, the same words, and nothing that waits for the device."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.inversion import Slot, new_slot, train_step
from pipeline.training.transfer import pack, packed_size, unpack
from tests.pipeline.training.plain_step import PlainTrainer
from tests.tiny_model import PIXELS

SHORT = InversionSettings(steps=1000, early_stop="off", batch_size=4, learning_rate=5e-3)
EVERY_OPTION = replace(
    SHORT, schedule="cosine", warmup_steps=4, progressive=0.01, per_image=0.5, regularisation=0.1, min_snr=5.0,
    weight_decay=0.01, start="statistics",
)  # fmt: skip
DIRECTIONAL = replace(EVERY_OPTION, regularisation=0.0, weight_decay=0.0, optimiser="directional")
# What reads a tensor's value, or makes one whose size depends on values, waits on a GPU for all that was asked before.
WAITS = {"aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal", "aten.masked_select"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    return load_backbone(str(epsilon_model))


def slots_of(count: int, backbone: Backbone, settings: InversionSettings = SHORT, vectors: int = 1) -> list[Slot]:
    generator = np.random.default_rng(0)
    return [
        new_slot(
            Concept(f"c-{number}", (), f"<c-{number}>", initializer="cat", vectors=vectors),
            generator.integers(0, 256, (1 + number % 3, PIXELS, PIXELS, 3), np.uint8), backbone, settings,
        )
        for number in range(count)
    ]  # fmt: skip


class Calls(TorchDispatchMode):
    """Counts what the model is asked to do while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def calls_of_a_step(backbone: Backbone, slots: list[Slot]) -> Counter[str]:
    train_step(backbone, slots)
    with Calls() as calls:
        train_step(backbone, slots)
    return calls.seen


@pytest.mark.parametrize("settings", [SHORT, EVERY_OPTION, DIRECTIONAL], ids=["plain", "every option", "directional"])
def test_a_step_asks_the_model_for_as_much_with_one_slot_as_with_many(
    settings: InversionSettings, any_model: Path
) -> None:
    """Catches work that is done slot by slot: its launches, not its arithmetic, are what a GPU waits for."""
    model = load_backbone(str(any_model))
    one, *more = (calls_of_a_step(model, slots_of(count, model, settings)) for count in (1, 4, 16))
    assert all(other == one for other in more), [other - one for other in more]


def test_nothing_in_a_step_waits_for_the_device(any_model: Path) -> None:
    model = load_backbone(str(any_model))
    for settings in (EVERY_OPTION, DIRECTIONAL):
        seen = calls_of_a_step(model, slots_of(2, model, settings))
        assert not WAITS & seen.keys()


@pytest.mark.parametrize(
    ("settings", "vectors", "count"),
    [
        (SHORT, 2, 5),
        (replace(SHORT, batch_size=3, weight_decay=0.1, schedule="cosine", warmup_steps=5, norm_limit=1.0), 1, 1),
    ],
)
def test_the_words_of_many_slots_are_those_of_a_step_slot_by_slot_to_the_last_bit(
    settings: InversionSettings, vectors: int, count: int, any_model: Path
) -> None:
    """Catches an Adam that rounds otherwise, and draws that another step's or slot's could be."""
    model = load_backbone(str(any_model))
    slots = slots_of(count, model, settings, vectors)
    plain = PlainTrainer(model, slots)
    for _ in range(8):
        train_step(model, slots)
        plain.step()
    for slot, words, optimiser in zip(slots, plain.words, plain.optimisers, strict=True):
        for name, word in words.items():
            kept = optimiser.state[word]
            assert torch.equal(slot.words[name], word)
            assert torch.equal(slot.means[name], kept["exp_avg"])
            assert torch.equal(slot.squares[name], kept["exp_avg_sq"])


def test_what_is_drawn_ahead_is_of_the_step_that_is_taken(backbone: Backbone) -> None:
    """Catches draws of the step that would have come, in a slot that was taken elsewhere in between."""
    (moved,), (fresh,) = slots_of(1, backbone), slots_of(1, backbone)
    train_step(backbone, [moved])
    moved.step = 2
    with torch.no_grad():
        for table in (moved.words, moved.means, moved.squares):
            for rows in table.values():
                rows.zero_()
    train_step(backbone, [moved])
    fresh.step = 2
    with torch.no_grad():
        for rows in fresh.words.values():
            rows.zero_()
    train_step(backbone, [fresh])
    assert all(torch.equal(fresh.words[name], moved.words[name]) for name in fresh.words)


def test_what_is_packed_for_one_copy_comes_out_as_it_went_in() -> None:
    """Catches tensors of odd sizes that overlap, or whose numbers begin where their type does not allow it."""
    parts = {
        "halves": torch.randn(3).half(), "ids": torch.arange(7), "nothing": torch.zeros(0, 4), "flags": torch.tensor([True]),
        "picture": torch.randn(2, 3, 5).transpose(1, 2), "doubles": torch.randn(1, 1, dtype=torch.float64),
    }  # fmt: skip
    packed = torch.empty(packed_size(parts), dtype=torch.uint8)
    pack(parts, packed)
    there = unpack(packed.clone(), parts)
    assert all(torch.equal(there[name], part) for name, part in parts.items())
    assert list(there) == list(parts)
