"""Pictures of many words in shared batches: the same bytes as alone, none twice, beside the training."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.protocols import PROTOCOLS, Protocol
from pipeline.records import Concept
from pipeline.sampling.picture_pool import GRAIN, PicturePool, Wanted
from pipeline.sampling.pictures_of_a_word import draw_concept, pixels_of, samples_of, wanted_of
from pipeline.sampling.prompting import requests_for
from pipeline.scheduling.continuous_batch import ContinuousBatch
from pipeline.settings import InversionSettings
from pipeline.training.inversion import new_slot
from tests.tiny_model import PIXELS, WIDTH

FAST = replace(PROTOCOLS["quick"], steps=2)
SHARED = replace(PROTOCOLS["catalogue"], steps=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def backbone(epsilon_model: Path) -> Backbone:
    return load_backbone(str(epsilon_model))


def wanted(backbone: Backbone, name: str, protocol: Protocol = FAST, noun: str = "cat") -> list[Wanted]:
    concept = Concept(name, (), f"<{name}>", initializer=noun, noun=noun)
    vectors = np.random.default_rng(len(name)).normal(scale=0.03, size=(1, WIDTH)).astype(np.float32)
    return wanted_of(backbone, concept, {"text_encoder": vectors}, requests_for(concept, protocol, 0))


def drawn(pool: PicturePool, *some: list[Wanted]) -> list[list[np.ndarray]]:
    futures = [pool.add(each) for each in some]
    while pool.words:
        pool.advance()
    return [[picture.result() for picture in each] for each in futures]


@pytest.mark.parametrize("model", ["tiny", "mini"])
def test_a_picture_has_the_same_bytes_whatever_it_is_drawn_beside(model: str, epsilon_model: Path) -> None:
    """Catches a batch whose size or neighbours reach into a picture's arithmetic."""
    backbone = load_backbone(str(epsilon_model) if model == "tiny" else "mini")
    width = backbone.encoders["text_encoder"]
    generator = np.random.default_rng(0)
    pictures = []
    for name in ("a", "bb", "ccc"):
        concept = Concept(name, (), f"<{name}>", initializer="cat")
        vectors = {"text_encoder": generator.normal(scale=0.03, size=(1, width)).astype(np.float32)}
        pictures += wanted_of(backbone, concept, vectors, requests_for(concept, FAST, 0))[::11]
    alone = [pixels_of(backbone, [each], FAST)[0] for each in pictures]
    order = generator.permutation(len(pictures))
    (together,) = drawn(PicturePool(backbone, FAST), [pictures[place] for place in order])
    assert len({each.tobytes() for each in alone}) == len(alone)
    assert [each.tobytes() for each in together] == [alone[place].tobytes() for place in order]


def test_pictures_without_the_learned_word_are_drawn_once_for_a_class(backbone: Backbone) -> None:
    """Catches the 28 of 52 pictures drawn for every concept again, and those of another class handed out for them."""
    cat, same = wanted(backbone, "cat-one", SHARED), wanted(backbone, "cat-second", SHARED)
    truck = wanted(backbone, "truck", SHARED, "fire truck")
    before = backbone.evaluations
    pool = PicturePool(backbone, SHARED)
    first = drawn(pool, cat)[0]
    assert backbone.evaluations - before == SHARED.steps * 52 // GRAIN
    second, third = drawn(pool, same, truck)
    assert backbone.evaluations - before == SHARED.steps * (52 + 24 + 52) // GRAIN
    for one, other, another, request in zip(first, second, third, (each.request for each in same), strict=True):
        assert np.array_equal(one, other) is not request.trained
        assert not np.array_equal(one, another)
    kinds = {each.request.kind for each in same if not each.request.trained}
    assert kinds == {"untrained", "noun", "wordless"}
    assert np.array_equal(pixels_of(backbone, same, SHARED), second), "as they are drawn alone"


def test_the_first_protocol_shares_nothing(backbone: Backbone) -> None:
    pool, before = PicturePool(backbone, FAST), backbone.evaluations
    drawn(pool, wanted(backbone, "cat-one"), wanted(backbone, "cat-second"))
    assert backbone.evaluations - before == FAST.steps * 2 * 52 // GRAIN


def hold(backbone: Backbone, most: int) -> None:
    """A guided batch of more pictures runs out of memory."""
    original = backbone.predict

    def predict(noisy: Tensor, times: Tensor, conditioning: Any) -> Tensor:
        if len(noisy) > 2 * most:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return original(noisy, times, conditioning)

    backbone.predict = predict  # type: ignore[method-assign]


def test_a_batch_that_runs_out_of_memory_is_drawn_by_halves(backbone: Backbone) -> None:
    some = wanted(backbone, "cat")
    plain = pixels_of(backbone, some, FAST)
    hold(backbone, 2)
    told: list[str] = []
    pool = PicturePool(backbone, FAST, tell=lambda *said: told.append("; ".join(said)))
    (held,) = drawn(pool, some)
    assert pool.batch == 2
    assert told == ["drawing 4 pictures at once ran out of memory; this worker draws 2 at once from now on"]
    assert max(np.abs(one.astype(int) - other).max() for one, other in zip(plain, held, strict=True)) <= 1


def test_a_picture_that_does_not_fit_beside_a_training_step_is_drawn_between_two(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a word that fails for its pictures because the neighbours' activations filled the memory."""
    some = wanted(backbone, "cat")[:2]
    plain = pixels_of(backbone, some, FAST)
    beside, original = threading.Event(), backbone.predict

    def predict(*arguments: Any) -> Tensor:
        if threading.current_thread().name == "pictures":
            beside.set()
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return original(*arguments)

    monkeypatch.setattr(backbone, "predict", predict)
    told: list[str] = []
    pool = PicturePool(backbone, FAST, tell=lambda *said: told.append(said[1]))
    batch = ContinuousBatch(backbone, 2, lambda _: None, 1e9, lambda *_: None, pictures=pool)
    monkeypatch.setattr(batch, "_draws_between_steps", False)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    threading.Thread(target=batch._draw_beside, args=(pool,), daemon=True, name="pictures").start()
    held = batch.draw(some)
    assert beside.is_set()
    assert told == [
        "this worker draws 1 at once from now on",
        "pictures are drawn between two training steps from now on",
    ]
    assert max(np.abs(one.astype(int) - other).max() for one, other in zip(plain, held, strict=True)) <= 1


def test_pictures_that_cannot_be_drawn_fail_alone_and_are_tried_anew(backbone: Backbone) -> None:
    """Catches a failure that is kept, and handed to every later word of the class."""
    some = wanted(backbone, "cat", SHARED)
    hold(backbone, 0)
    pool = PicturePool(backbone, SHARED)
    futures = pool.add(some)
    while pool.words:
        pool.advance()
    assert all(isinstance(each.exception(), torch.OutOfMemoryError) for each in futures)
    hold_nothing = load_backbone(backbone.name)
    backbone.predict = hold_nothing.predict  # type: ignore[method-assign]
    assert all(isinstance(each, np.ndarray) for each in drawn(pool, some)[0])


def test_training_goes_on_while_pictures_are_drawn(backbone: Backbone) -> None:
    """Catches slots that stand still while a word is drawn, and a word that waits until all are trained."""
    done: list[str] = []
    original = backbone.predict

    def predict(*arguments: Any) -> Tensor:
        done.append("step" if torch.is_grad_enabled() else "picture")
        return original(*arguments)

    backbone.predict = predict  # type: ignore[method-assign, assignment]
    batch = ContinuousBatch(backbone, 2, lambda _: None, 1e9, lambda *_: None, pictures=PicturePool(backbone, FAST))
    pixels = np.zeros((1, PIXELS, PIXELS, 3), np.uint8)
    settings = InversionSettings(steps=400, early_stop="off", batch_size=1)
    begun = threading.Event()

    def train(number: int) -> None:
        concept = Concept(f"c-{number}", (), f"<c-{number}>")

        def enter() -> Any:
            begun.set()
            return new_slot(concept, pixels, backbone, settings)

        batch.train("f" * 64, enter)

    some = wanted(backbone, "cat")
    with ThreadPoolExecutor(2) as calls:
        trained = [calls.submit(train, number) for number in range(2)]
        begun.wait()
        drawn_there = batch.draw(some)
        assert not any(each.done() for each in trained)
        between = done[done.index("picture") :]
        assert between.count("step") > 3
        assert between.count("picture") == FAST.steps * 52 // GRAIN
    concept = some[0].concept
    alone = draw_concept(backbone, concept, some[0].vectors, FAST, 0)
    assert [each.png for each in samples_of(some, drawn_there)] == [each.png for each in alone]
