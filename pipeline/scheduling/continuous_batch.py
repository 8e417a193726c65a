"""Continuous batching: K concepts train at once on one frozen model. A finished one frees its slot for the next step.

What touches the model runs on one thread, between two steps of the shared batch. Other threads hand it work and wait.
Pictures are drawn beside the training: on a GPU by a thread with a CUDA stream of its own, on a CPU one denoising step at a
time between two training steps.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline.models.base import Backbone
from pipeline.models.device_memory import full_memory, give_memory_back
from pipeline.records import Word
from pipeline.sampling.picture_pool import PicturePool, Wanted
from pipeline.store.checkpoints import Checkpoint
from pipeline.training.inversion import InversionError, Slot, end_of, snapshot, train_step, validate

Result = TypeVar("Result")
# A word that is being drawn gets more time than one in a slot, because it holds a call that the next concept needs: slots stay
# full where drawing a word takes up to this many times as long as training it.
DRAWN = 4.0
DOES_NOT_FIT = "one concept in training does not fit into the GPU's memory; lower --batch-size or --resolution"


@dataclass(frozen=True, slots=True)
class _Entry:
    slot: Slot
    fingerprint: str
    word: Future[Word]

    def finish(self, end: Word | InversionError) -> None:
        if isinstance(end, Word):
            self.word.set_result(end)
        else:
            self.word.set_exception(end)


class ContinuousBatch:
    """`keep` gets every concept's checkpoint each `every` seconds, on the model's thread, so it must not block.

    A step that runs out of the device's memory halves the slots for good. Concepts that lose their slot wait until one is
    free and go on from where they were. If a single slot does not fit and `may_recompute` is set, the model switches to
    gradient checkpointing. `tell` gets what ran out of memory and what is done about it.
    `pictures` holds what is to be drawn; without it, `draw` cannot be called.
    """

    def __init__(
        self,
        backbone: Backbone,
        slots: int,
        keep: Callable[[list[Checkpoint]], None],
        every: float,
        tell: Callable[[str, str], None],
        may_recompute: bool = True,
        pictures: PicturePool | None = None,
    ) -> None:
        self._backbone, self._keep, self._every = backbone, keep, every
        self.slots, self._tell, self._may_recompute = slots, tell, may_recompute
        self._free = threading.Semaphore(slots)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._entries: list[_Entry] = []
        self.steps = 0  # taken so far, of all concepts together
        self._pictures, self._draws_between_steps = pictures, pictures is not None
        if pictures is not None and backbone.device.type == "cuda":
            self._draws_between_steps = False
            threading.Thread(target=self._draw_beside, args=(pictures,), daemon=True, name="pictures").start()
        threading.Thread(target=self._serve, daemon=True, name="model").start()

    @property
    def beats(self) -> int:
        """A counter that rises with every training step and every sampled batch."""
        return self._backbone.evaluations

    @property
    def training(self) -> dict[str, int]:
        """Concept -> step of those in a slot now."""
        return {entry.slot.concept.name: entry.slot.step for entry in tuple(self._entries)}

    def train(self, fingerprint: str, enter: Callable[[], Slot]) -> Word:
        """Waits for a free slot, then for the word. `enter` makes the slot, new or restored, on the model's thread.

        Raises what `enter` raises, and InversionError.
        """
        word: Future[Word] = Future()

        def admit() -> None:
            entry = _Entry(enter(), fingerprint, word)
            if (
                not entry.slot.settings.steps
            ):  # no steps: the word is its start, but its loss is measured like any other's
                validate(self._backbone, [entry.slot])
            if (end := end_of(entry.slot)) is not None:  # it was interrupted after its last step
                entry.finish(end)
            else:
                self._entries.append(entry)

        with self._free:
            self.run(admit)
            return word.result()

    def run(self, call: Callable[[], Result]) -> Result:
        """Runs `call` on the model's thread, between two steps, and returns or raises what it does."""
        done: Future[Result] = Future()

        def run() -> None:
            try:
                done.set_result(_with_room(call))
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                done.set_exception(error)

        self._calls.put(run)
        return done.result()

    def draw(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """Waits for the pictures, one each, uint8 (R, R, 3)."""
        assert self._pictures is not None, "drawing needs a picture pool"
        pictures = self._pictures.add(wanted)
        self._calls.put(lambda: None)  # wakes the model's thread if nothing is in training
        return [picture.result() for picture in pictures]

    def snapshots(self) -> list[Checkpoint]:
        """Of every concept in a slot, between two steps."""
        return self.run(self._snapshots)

    def _snapshots(self) -> list[Checkpoint]:
        return [snapshot(entry.slot, entry.fingerprint) for entry in self._entries]

    def _serve(self) -> None:
        kept = time.monotonic()
        owed = 0.0  # seconds of drawing
        while True:
            while not (self._entries or self._words_to_draw) or not self._calls.empty():
                self._calls.get()()
            began = time.monotonic()
            if self._entries:
                share = DRAWN * self._words_to_draw / len(self._entries)
                self._step()
                owed += share * (time.monotonic() - began)
            owed = self._draw(owed)
            if time.monotonic() - kept >= self._every:
                self._keep(self._snapshots())
                kept = time.monotonic()

    @property
    def _words_to_draw(self) -> int:
        """By this thread."""
        return self._pictures.words if self._pictures is not None and self._draws_between_steps else 0

    def _draw(self, owed: float) -> float:
        """Draws for that many seconds, or one step if nothing is in training. Returns the seconds that are still owed."""
        while self._words_to_draw and (owed > 0 or not self._entries):
            began = time.monotonic()
            assert self._pictures is not None, "there is something to draw"
            self._pictures.advance()
            owed -= time.monotonic() - began
            if not self._entries:
                return 0.0
            if not self._calls.empty():
                return owed
        return owed if self._words_to_draw else 0.0

    def _draw_beside(self, pictures: PicturePool) -> None:
        """Draws for as long as the process lives, on a stream that the training does not wait for. What does not fit beside a
        training step is drawn between two.
        """
        device = self._backbone.device
        torch.cuda.synchronize(device)
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            while True:
                pictures.wait()
                if pictures.needs_all_memory:
                    self.run(pictures.advance)
                else:
                    pictures.advance()

    def _step(self) -> None:
        entries = self._entries[: self.slots]
        ended: dict[Slot, Word | InversionError] | None = None
        try:
            ended = dict(train_step(self._backbone, [entry.slot for entry in entries]))
        except torch.OutOfMemoryError:
            pass  # handled below: while this handler runs, the error keeps the step's tensors alive
        except Exception as error:  # noqa: BLE001 - a step that fails fails every concept in it; none may wait for ever
            self._fail(entries, error)
            return
        if ended is None:
            give_memory_back()
            if not self._make_room(len(entries)):
                self._fail(entries, InversionError(DOES_NOT_FIT))
            return
        self.steps += len(entries)
        self._entries = [entry for entry in self._entries if entry.slot not in ended]
        for entry in entries:
            if entry.slot in ended:
                entry.finish(ended[entry.slot])

    def _fail(self, entries: list[_Entry], error: Exception) -> None:
        self._entries = self._entries[len(entries) :]
        for entry in entries:
            entry.word.set_exception(error)

    def _make_room(self, occupied: int) -> bool:
        """After a step of so many slots ran out of memory: whether one of fewer, or one that keeps less, can be tried."""
        if self._backbone.make_usual():  # a padded batch would not become smaller with the slots
            self._tell(f"a step of {occupied} slots ran out of memory", "the model runs uncompiled from now on")
            return True
        if occupied > 1:
            self.slots = occupied // 2
            self._tell(f"a step of {occupied} slots ran out of memory", f"this worker goes on with {self.slots}")
            return True
        if self._may_recompute and self._backbone.checkpoint_gradients(True):
            self._may_recompute = False
            self._tell("a step of one slot ran out of memory", "the model computes its activations twice from now on")
            return True
        return False


def _with_room(call: Callable[[], Result]) -> Result:
    """What `call` returns. Tried twice if memory runs out: the allocator still holds much of a step's memory at first."""
    try:
        with full_memory():
            return call()
    except torch.OutOfMemoryError:
        pass
    give_memory_back()
    return call()
