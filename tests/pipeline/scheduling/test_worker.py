"""The worker by itself, on a tiny model and a real disk: what one call of it leaves behind."""

import importlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import pipeline.scheduling.worker as working
from pipeline.models.find import find_model
from pipeline.protocols import PROTOCOLS
from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.slot_count import CANDIDATES
from pipeline.scheduling.worker import SLOWER, Worker
from pipeline.scheduling.worker_interface import Look, WorkerSettings
from pipeline.settings import InversionSettings
from pipeline.store.checkpoints import Checkpoint
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from pipeline.training import inversion

RATE = 5e-3
PROTOCOL = replace(PROTOCOLS["quick"], steps=2)


@pytest.fixture
def concept(tmp_path: Path) -> Concept:
    generator = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{number}.png")
    return Concept("my-cat", (str(tmp_path / "*.png"),), "<my-cat>", initializer="cat")


@pytest.fixture
def make_worker(epsilon_model: Path, tmp_path: Path) -> Callable[..., Worker]:
    def make(slots: int | None = 1, steps: int = 4, look: Look | None = None, **changed: Any) -> Worker:
        model = find_model(str(epsilon_model))
        settings = WorkerSettings(
            model=str(epsilon_model), model_digest=model.digest, device="cpu", threads=1,
            slots=slots, inversion=InversionSettings(steps=steps, early_stop="off", batch_size=1, learning_rate=RATE, **changed),
            protocol=PROTOCOL, run=RunFolder(Storage(str(tmp_path / "run"))), storage_options={}, look=look,
        )  # fmt: skip
        return Worker(settings)

    return make


def embedding(worker: Worker) -> dict[str, Any]:
    (path,) = Path(worker.settings.run.storage.url, "_attempts").glob("*embedding.parquet")
    row: dict[str, Any] = pq.read_table(path).to_pylist()[0]
    return row


def diverge(monkeypatch: pytest.MonkeyPatch, at: Callable[[float], bool]) -> list[float]:
    """Latents that are no numbers, at such learning rates; returns the rates that were tried."""
    tried: list[float] = []
    original = inversion.new_slot

    def new_slot(concept: Concept, pixels: np.ndarray, backbone: Any, settings: InversionSettings, beside: Any) -> Any:
        slot = original(concept, pixels, backbone, settings, beside)
        tried.append(settings.learning_rate)
        if at(settings.learning_rate):
            slot.posterior.mean.fill_(torch.nan)
        return slot

    monkeypatch.setattr(working, "new_slot", new_slot)
    return tried


def test_a_word_that_diverges_is_learned_once_more_at_a_lower_rate(
    make_worker: Callable[..., Worker], concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a concept given up for a spike that a smaller step survives, and a rate on record that was not the effective one."""
    worker = make_worker()
    tried = diverge(monkeypatch, lambda rate: rate == RATE)
    assert isinstance(worker.invert(concept), Done)
    assert tried == [RATE, RATE / SLOWER]
    assert embedding(worker)["learning_rate"] == RATE / SLOWER


def test_a_word_that_diverges_twice_is_a_failure_that_says_so(
    make_worker: Callable[..., Worker], concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a word of NaNs in a table, and a concept that is tried for ever."""
    worker = make_worker()
    tried = diverge(monkeypatch, lambda _: True)
    failure = worker.invert(concept)
    assert isinstance(failure, Failure)
    assert len(tried) == 2
    assert failure.stage == "inversion"
    assert failure.fingerprint
    assert "the loss stopped being a number by step 4, and at a learning rate of 0.00125, the loss" in failure.reason
    assert worker.settings.run.committed() == set()


def test_a_second_call_finds_the_word_that_another_driver_committed(
    make_worker: Callable[..., Worker], concept: Concept
) -> None:
    """Catches two drivers that both pay for every word."""
    worker = make_worker()
    first = worker.invert(concept)
    before = worker.batch.steps
    assert worker.invert(concept) == first
    assert worker.batch.steps == before == 4


def test_what_goes_wrong_is_told_by_the_next_pulse_and_once(
    make_worker: Callable[..., Worker], concept: Concept, tmp_path: Path
) -> None:
    """Catches a picture that is left out, a word that is learned again, or a slow start, of which nobody hears."""
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    worker = make_worker()
    started = [event for event in worker.pulse().events if event.kind == "phase"]
    assert [event.cause for event in started] == [
        "the model was loaded", "the weights were digested", "the number of slots was found",
    ]  # fmt: skip
    assert all(event.seconds is not None for event in started)
    assert isinstance(worker.invert(concept), Done)
    (rejected,) = worker.pulse().events
    assert (rejected.kind, rejected.concept) == ("picture_rejected", "my-cat")
    assert "broken.png" in rejected.cause
    assert rejected.action == "the other 2 pictures are used"
    assert worker.pulse().events == ()


def test_a_checkpoint_of_other_pictures_is_not_taken_up(make_worker: Callable[..., Worker], concept: Concept) -> None:
    """Catches a word that began with somebody else's steps."""
    worker = make_worker()
    done = worker.invert(concept)
    assert isinstance(done, Done)
    vectors = embedding(worker)["vectors"]
    run = worker.settings.run
    run.withdraw(concept.name, done.fingerprint)
    for path in Path(run.storage.url, "_attempts").iterdir():
        path.unlink()
    stale = np.full((1, 32), 9.0, np.float32)
    tables = {"text_encoder": stale}
    run.save_checkpoint(Checkpoint(concept.name, "0" * 64, 3, RATE, 0.0, (), tables, tables, tables))
    assert isinstance(worker.invert(concept), Done)
    assert embedding(worker)["vectors"] == vectors
    assert run.checkpointed() == [], "what is done needs no checkpoint"


def test_no_more_concepts_train_at_once_than_there_are_slots(
    make_worker: Callable[..., Worker], concept: Concept
) -> None:
    """Catches a GPU that runs out of memory because concepts were called ahead."""
    worker = make_worker(slots=2, steps=30)
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.001):  # leaves the interpreter to those it watches
            most[0] = max(most[0], len(worker.batch.training))
            pulse = worker.pulse()
            assert pulse.slots == 2

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(5) as calls:
        done = list(calls.map(lambda number: worker.invert(replace(concept, name=f"cat-{number}")), range(5)))
    over.set()
    watcher.join()
    assert all(isinstance(each, Done) for each in done)
    assert most == [2]
    assert worker.pulse().calls == {}
    assert worker.batch.steps == 5 * 30


def test_a_worker_that_is_not_told_measures_its_slots(make_worker: Callable[..., Worker]) -> None:
    worker = make_worker(slots=None)
    assert worker.slots in CANDIDATES
    assert worker.batch.steps == 0, "what was measured is nobody's training"


def test_captions_masks_and_the_nearest_words_reach_the_training(
    make_worker: Callable[..., Worker], concept: Concept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches files beside the pictures that are read, put into the fingerprint, and then left out of the word."""
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(f"a caption, the {number}th")
        Image.fromarray(np.full((32, 32), 200 + number, np.uint8)).save(tmp_path / f"{number}.mask.png")
    entered: list[Any] = []
    original = inversion.new_slot

    def new_slot(*arguments: Any) -> Any:
        entered.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(working, "new_slot", new_slot)
    asked: list[tuple[tuple[int, ...], int]] = []

    def look(pixels: np.ndarray, vocabulary: Sequence[str]) -> tuple[str, ...]:
        asked.append((pixels.shape, len(vocabulary)))
        return ("dog", "truck")

    worker = make_worker(look=look, captions=True, masks="sidecar", start="nearest", start_clip="mini")
    assert isinstance(worker.invert(concept), Done)
    (beside,) = entered
    assert beside.captions == ("a caption, the 0th", "a caption, the 1th")
    assert [mask.max() for mask in beside.masks] == [200, 201]
    assert beside.nearest == ("dog", "truck")
    assert asked == [((2, 16, 16, 3), len(worker.backbone.vocabulary_words()))]
    dog, truck = (worker.backbone.initial_vectors(word, 1)["text_encoder"] for word in ("dog", "truck"))
    np.testing.assert_allclose(embedding(worker)["initial_norms"], np.linalg.norm((dog + truck) / 2, axis=1), rtol=1e-5)


def test_pictures_are_encoded_beside_the_training(
    make_worker: Callable[..., Worker], concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a model that stands still while PNGs are made of what it drew."""
    threads: set[str] = set()
    for module in ("pipeline.sampling.pictures_of_a_word", "pipeline.scheduling.worker", "pipeline.sampling.grid"):
        original = importlib.import_module(module).encode_png

        def encode(pixels: np.ndarray, original: Callable[[np.ndarray], bytes] = original) -> bytes:
            threads.add(threading.current_thread().name)
            return original(pixels)

        monkeypatch.setattr(f"{module}.encode_png", encode)
    assert isinstance(make_worker().invert(concept), Done)
    assert threads == {threading.current_thread().name}
