"""One step of many slots: the work of one, the same words, and nothing that waits for the device."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.base import Backbone, Tokens
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.early_stopping import is_look
from pipeline.training.inversion import Slot, new_slot, train_step
from pipeline.training.transfer import pack, packed_size, unpack
from tests.other_device import OTHER, Crossings, load_there, taken_there
from tests.pipeline.training.plain_step import PlainTrainer
from tests.tiny_model import PIXELS
from tests.tiny_transformers import FAMILIES, save_tiny

SHORT = InversionSettings(steps=1000, early_stop="off", batch_size=4, learning_rate=5e-3)
EVERY_OPTION = replace(
    SHORT, schedule="cosine", warmup_steps=4, progressive=0.01, per_image=0.5, regularisation=0.1, min_snr=5.0,
    weight_decay=0.01, start="statistics", norm_limit=1.0,
)  # fmt: skip
DIRECTIONAL = replace(EVERY_OPTION, regularisation=0.0, weight_decay=0.0, norm_limit=0.0, optimiser="directional")
BEHIND = replace(SHORT, word_place="output")


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


def read_all(backbone: Backbone, slots: list[Slot]) -> None:
    """A word behind a text encoder has it read each sentence once."""
    for slot in slots:
        tokens = Tokens(slot.templates.ids.to(backbone.device), slot.templates.ids)
        backbone.embed(tokens, slot.words)


def calls_of_a_step(backbone: Backbone, slots: list[Slot]) -> Counter[str]:
    train_step(backbone, slots)
    read_all(backbone, slots)
    with Calls() as calls:
        train_step(backbone, slots)
    return calls.seen


EACH = [SHORT, EVERY_OPTION, DIRECTIONAL, BEHIND]


@pytest.mark.parametrize("settings", EACH, ids=["plain", "every option", "directional", "behind"])
def test_a_step_asks_the_model_for_as_much_with_one_slot_as_with_many(
    settings: InversionSettings, any_model: Path
) -> None:
    """Catches work that is done slot by slot: its launches, not its arithmetic, are what a GPU waits for."""
    model = load_backbone(str(any_model))
    one, *more = (calls_of_a_step(model, slots_of(count, model, settings)) for count in (1, 4, 16))
    assert all(other == one for other in more), [other - one for other in more]


@pytest.mark.parametrize("count", [1, 4, 16])
def test_a_step_makes_one_copy_to_the_device_and_waits_for_nothing(count: int, any_model: Path) -> None:
    here, there = load_backbone(str(any_model)), load_there(any_model)
    for settings in EACH:
        slots = [taken_there(slot) for slot in slots_of(count, here, settings)]
        with Crossings():
            train_step(there, slots)
            read_all(there, slots)
        with Crossings() as crossings:
            train_step(there, slots)
        assert (crossings.sent, crossings.asked) == ([], [])
        assert len(crossings.copied) == 1


def test_a_look_at_all_slots_makes_one_copy_and_asks_once(any_model: Path) -> None:
    """Catches slots that each wait for their own loss, and a look that is asked for every slot again."""
    here, there = load_backbone(str(any_model)), load_there(any_model)
    settings = replace(SHORT, early_stop="settled")
    warm, slots = ([taken_there(slot) for slot in slots_of(4, here, settings)] for _ in range(2))
    with Crossings():
        train_step(there, warm)  # sends the model's own tables of numbers, once
    with Crossings() as first:
        train_step(there, slots)
    assert (len(first.copied), len(first.asked), first.sent) == (2, 1, []), "the first step comes after a look"
    with Crossings() as rest:
        while slots[0].step < first_look(settings):
            train_step(there, slots)
    assert (len(rest.copied), len(rest.asked), rest.sent) == (slots[0].step, 1, [])
    assert all(len(slot.losses) == 2 for slot in slots)


def first_look(settings: InversionSettings) -> int:
    return next(step for step in itertools.count(1) if is_look(step, settings.early_stop, settings.batch_size))


# diffusers' own transformers: a buffer of numbers, and the length of a prompt.
SENT = {"chroma": "aten._to_copy at transformer_chroma.py", "qwen_image": "torch.as_tensor at transformer_qwenimage.py"}


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
# Z-Image's transformer takes prompts of unequal lengths, which it asks the device for.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"z_image"}))
def test_a_step_of_a_transformer_waits_for_nothing_of_ours(family: str, tmp_path: Path) -> None:
    """Catches masks that transformers looks at, caches of keys that nobody reads, and sizes that are sent in every step."""
    folder = save_tiny(family, tmp_path / "model")
    here, there = load_backbone(str(folder)), load_there(folder)
    slots = [taken_there(slot) for slot in slots_of(2, here)]
    with Crossings():
        train_step(there, slots)
    with Crossings() as crossings:
        train_step(there, slots)
    assert crossings.asked == []
    assert len(crossings.copied) == 1
    assert [call.partition(":")[0] for call in crossings.sent] == [SENT[each] for each in (family,) if each in SENT]


def test_the_crossings_that_the_tests_look_for_are_seen() -> None:
    """Catches a watch that sees nothing."""
    table, here = torch.zeros(3, 2, device=OTHER), torch.tensor([0, 1])
    with Crossings() as crossings:
        torch.tensor([1.0], device=OTHER)
        table[[0, 1]]
        table[here]
        here.to(OTHER)
        assert len(crossings.sent) == 4
        here.to(OTHER, non_blocking=True)
        assert (len(crossings.sent), crossings.copied) == (4, [16])
        table.sum().item()
        table.cpu()
        table.tolist()
        bool(table.sum() > 0)
        with pytest.raises(NotImplementedError):
            table[table.sum(1) > 0]
    assert len(crossings.asked) == 5
    assert len(crossings.sent) == 4


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
