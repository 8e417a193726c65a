"""A model that runs out of memory: with fewer slots the same words are learned, and no concept pays for it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.scheduling import slot_count
from pipeline.scheduling.continuous_batch import ContinuousBatch
from pipeline.scheduling.slot_count import measure_slots
from pipeline.settings import InversionSettings
from pipeline.training.inversion import InversionError, new_slot, train_step
from tests.tiny_model import PIXELS

BATCH = 2
INJECTED = torch.OutOfMemoryError("CUDA out of memory (injected)")
SHORT = InversionSettings(steps=6, early_stop="settled", batch_size=BATCH, learning_rate=5e-3)


@pytest.fixture
def backbone(epsilon_model: Path) -> Backbone:
    torch.set_num_threads(1)
    return load_backbone(str(epsilon_model))


def hold(backbone: Backbone, training: int, looking: int = 10_000, error: RuntimeError = INJECTED) -> list[int]:
    """Lets the model run out of memory above so many pictures, with gradients and without; returns the sizes it was given."""
    sizes: list[int] = []
    original = backbone.predict

    def predict(noisy: Tensor, times: Tensor, conditioning: Any) -> Tensor:
        most = training if torch.is_grad_enabled() else looking
        if len(noisy) > most:
            raise type(error)(*error.args)
        sizes.append(len(noisy))
        return original(noisy, times, conditioning)

    backbone.predict = predict  # type: ignore[method-assign]
    return sizes


def learn(
    backbone: Backbone, slots: int, count: int, may_recompute: bool = True, told: list[str] | None = None
) -> list[Word | Exception]:
    def tell(cause: str, action: str) -> None:
        if told is not None:
            told.append(f"{cause}; {action}")

    batch = ContinuousBatch(backbone, slots, lambda _: None, 1e9, tell, may_recompute)
    pixels = np.random.default_rng(0).integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)

    def one(number: int) -> Word | Exception:
        concept = Concept(name=f"c-{number}", images=(), placeholder=f"<c-{number}>", initializer="cat")
        try:
            return batch.train("f" * 64, lambda: new_slot(concept, pixels, backbone, SHORT))
        except Exception as error:  # noqa: BLE001 - what it is, is looked at
            return error

    with ThreadPoolExecutor(count) as calls:
        return list(calls.map(one, range(count)))


@pytest.mark.parametrize(
    ("training", "looking"), [(3 * BATCH, 10_000), (BATCH, 10_000), (10_000, 8), (3 * BATCH, 16), (10_000, 1)]
)
def test_running_out_of_memory_costs_no_concept_and_changes_no_word(
    training: int, looking: int, epsilon_model: Path, backbone: Backbone
) -> None:
    """Catches a step that is taken twice or by half, a look that is left out, and concepts that share a failure."""
    plain = learn(load_backbone(str(epsilon_model)), 8, 4)
    sizes = hold(backbone, training, looking)
    held = learn(backbone, 8, 4)
    assert max(sizes) > BATCH or training == BATCH
    for one, other in zip(plain, held, strict=True):
        assert isinstance(one, Word)
        assert isinstance(other, Word)
        assert (one.steps, one.stopped_by) == (other.steps, other.stopped_by)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        np.testing.assert_allclose(one.vectors["text_encoder"], other.vectors["text_encoder"], atol=1e-4)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.",
    ],
)
def test_memory_that_another_allocator_finds_full_costs_no_concept_either(said: str, backbone: Backbone) -> None:
    hold(backbone, 2 * BATCH, 8, RuntimeError(said))
    assert all(isinstance(word, Word) for word in learn(backbone, 8, 4))


def test_another_error_of_a_step_is_its_concepts(backbone: Backbone) -> None:
    """Catches a fault of the device that is tried again and again as if fewer slots could help."""
    hold(backbone, 0, error=RuntimeError("CUDA error: device-side assert triggered"))
    assert [str(end) for end in learn(backbone, 2, 2)] == ["CUDA error: device-side assert triggered"] * 2


def test_slots_are_halved_and_stay_so(backbone: Backbone) -> None:
    """Catches a worker that runs out of memory again at every step."""
    refused: list[int] = []
    hold(backbone, 2 * BATCH)
    held = backbone.predict

    def predict(noisy: Tensor, times: Tensor, conditioning: Any) -> Tensor:
        refused.extend([len(noisy)] if torch.is_grad_enabled() and len(noisy) > 2 * BATCH else [])
        return held(noisy, times, conditioning)

    backbone.predict = predict  # type: ignore[method-assign]
    told: list[str] = []
    words = learn(backbone, 8, 5, told=told)
    assert all(isinstance(word, Word) for word in words)
    assert len(refused) == len(told) <= 2
    assert all("slots ran out of memory; this worker goes on with" in sentence for sentence in told)


def test_a_padded_batch_that_runs_out_of_memory_is_given_up_before_any_slot(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a compiled model whose batches stay as large as they were, however many slots are left."""
    monkeypatch.setattr(torch, "compile", lambda plain, **_: plain)
    backbone.make_faster("blocks", 8 * BATCH, PIXELS)
    hold(backbone, 2 * BATCH)
    monkeypatch.setattr(backbone._fast, "_fast", backbone.predict)  # type: ignore[attr-defined]
    told: list[str] = []
    assert all(isinstance(word, Word) for word in learn(backbone, 2, 3, told=told))
    assert told == ["a step of 2 slots ran out of memory; the model runs uncompiled from now on"]


def test_where_one_slot_does_not_fit_the_model_computes_its_activations_twice(backbone: Backbone) -> None:
    recomputes: list[bool] = []
    original, predicted = backbone.checkpoint_gradients, backbone.predict
    backbone.checkpoint_gradients = lambda on: recomputes.append(on) or original(on)  # type: ignore[method-assign, func-returns-value]

    def predict(*arguments: Any) -> Tensor:
        if torch.is_grad_enabled() and not recomputes:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return predicted(*arguments)

    backbone.predict = predict  # type: ignore[method-assign, assignment]
    assert all(isinstance(word, Word) for word in learn(backbone, 2, 3))
    assert recomputes == [True]


def test_a_concept_that_cannot_fit_fails_with_what_to_do(backbone: Backbone) -> None:
    hold(backbone, 0)
    assert all(
        isinstance(end, InversionError) and "lower --batch-size or --resolution" in str(end)
        for end in learn(backbone, 2, 3, may_recompute=False)
    )


def test_an_admission_that_runs_out_of_memory_is_tried_again(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, tried = backbone.encode_images, []

    def once(pixels: np.ndarray) -> Any:
        tried.append(len(pixels))
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return encode(pixels)

    monkeypatch.setattr(backbone, "encode_images", once)
    assert all(isinstance(word, Word) for word in learn(backbone, 4, 3))
    assert len(tried) == 4


def test_computing_activations_twice_changes_no_bit_of_a_word(any_model: Path) -> None:
    model = load_backbone(str(any_model))
    pixels = np.random.default_rng(0).integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)
    words = []
    for on in (False, True):
        assert model.checkpoint_gradients(on) == on
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        slot = new_slot(Concept(name="c", images=(), placeholder="<c>", initializer="cat"), pixels, model, SHORT)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            train_step(model, [slot])
        words.append((slot.words, kept))
    (plain, much), (checkpointed, little) = words
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert little < 0.7 * much


Rate = Callable[[Backbone, InversionSettings, int], float]


@pytest.mark.parametrize(
    ("plain", "checkpointed", "chosen", "on"),
    [
        ([10, 19, 36, 60, 61, 62], [], 8, False),
        ([10, 9, 36, 60, 61, 62], [], 8, False),  # one slow moment does not end the search
        ([10, 10, 10, 99], [], 1, False),
        ([10, None], [8, 15, 28, None], 4, True),
        ([10, 18, None], [5, 9, 15, None], 2, False),
        ([None], [3, None], 1, True),
        ([None], [None], 1, False),
    ],
    ids=str,
)
def test_as_many_slots_as_speed_it_up_and_fit(
    plain: list[float | None], checkpointed: list[float | None], chosen: int, on: bool, backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """rates of 1, 2, 4, ... slots, None for those that do not fit."""
    now = [False]

    def checkpoint(wanted: bool) -> bool:
        now[0] = wanted
        return wanted

    def rate(model: Backbone, settings: InversionSettings, count: int) -> float:
        found = (checkpointed if now[0] else plain)[count.bit_length() - 1]
        if found is None:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return float(found)

    monkeypatch.setattr(backbone, "checkpoint_gradients", checkpoint)
    monkeypatch.setattr(slot_count, "step_rate", rate)
    assert measure_slots(backbone, SHORT) == chosen
    assert now == [on]


@pytest.mark.parametrize(
    ("concepts", "seconds", "tried"),
    [
        (64, 0.0, [1, 2, 4, 8, 16, 32, 64]),
        (6, 0.0, [1, 2, 4]),  # the other slots would stay empty
        (64, 1.0, [1, 2, 4, 8, 16, 32]),  # the training takes 100 s at 320 steps a second
        (1, 9.0, [1]),
    ],
)
def test_the_search_for_slots_costs_little_of_the_training_it_is_for(
    concepts: int, seconds: float, tried: list[int], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """seconds: that each count takes to measure. The rate is 10 concept-steps a second for each slot."""
    clock, counts = [0.0], []

    def rate(model: Backbone, settings: InversionSettings, count: int) -> float:
        clock[0] += seconds
        counts.append(count)
        return 10.0 * count

    monkeypatch.setattr(slot_count, "step_rate", rate)
    monkeypatch.setattr(slot_count, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    measure_slots(backbone, replace(SHORT, steps=500), concepts=concepts)
    assert counts == tried
