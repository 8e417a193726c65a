"""Pictures of any words that wait to be drawn: they share the model's batches, and what is drawn already is not drawn again."""

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.models.base import Backbone, alias, in_its_place
from pipeline.models.device_memory import full_memory, give_memory_back
from pipeline.protocols import Protocol
from pipeline.records import AGAINST, OUT, Concept
from pipeline.sampling.prompting import Request
from pipeline.sampling.sampler import SamplerSettings, drawing

Vectors = Mapping[str, np.ndarray]  # text encoder -> float32 (V, D)

# Batches are filled up to a multiple of it. On a CPU all have this size: it is as fast there as larger ones, and kernels
# that see one shape round alike, so that a picture is the same to the last bit whatever is drawn beside it.
GRAIN = 4
BATCH = 16  # on a GPU of which nothing was measured
KEPT_BYTES = 2**30  # of pictures that may be asked for again
NAME = alias(0)  # of any word in a prompt, where only the other words count


@dataclass(frozen=True, slots=True)
class Wanted:
    """One picture to be drawn. vectors: what the concept's placeholder means in it, learned or not."""

    concept: Concept
    request: Request
    vectors: Vectors

    def prompt(self, name: str) -> str:
        """What is drawn, with the word spelled otherwise: two concepts may spell theirs alike. Without its negative prompt where
        that is a word before training.
        """
        prompt = self.request.prompt if self.request.trained else self.request.prompt.partition(AGAINST)[0]
        return in_its_place(prompt, self.concept.placeholder, name)

    @property
    def content(self) -> str:
        """Digest of all that the picture depends on, besides the model and the sampler."""
        prompt = self.prompt(NAME)
        digest = hashlib.sha256(f"{self.request.seed}\0{prompt}".encode())
        if NAME in prompt:
            for encoder, vectors in sorted(self.vectors.items()):
                digest.update(f"\0{encoder}\0".encode() + np.ascontiguousarray(vectors).tobytes())
        return digest.hexdigest()


@dataclass(slots=True)
class _Batch:
    pictures: list[tuple[Wanted, Future[np.ndarray]]]
    steps: Generator[None, None, np.ndarray]


@dataclass(slots=True)
class _Kept:
    """Pictures without a learned word, drawn or about to be, the last used last."""

    futures: OrderedDict[str, Future[np.ndarray]] = field(default_factory=OrderedDict)

    def get(self, content: str) -> Future[np.ndarray] | None:
        future = self.futures.get(content)
        if future is None or (future.done() and future.exception() is not None):
            return None
        self.futures.move_to_end(content)
        return future

    def add(self, content: str, future: Future[np.ndarray], most: int) -> None:
        self.futures[content] = future
        while len(self.futures) > most:
            self.futures.popitem(last=False)


class PicturePool:
    """Any thread may ask for pictures; one thread at a time draws them, a step of the sampler at a time.

    batch: pictures at once; halved when they run out of memory.
    needs_all_memory: a single picture did not fit beside what else the device was doing. It is tried once more.
    tell: gets what ran out of memory, and what is done about it.
    """

    def __init__(
        self,
        backbone: Backbone,
        protocol: Protocol,
        resolution: int | None = None,
        batch: int | None = None,
        tell: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        on_cpu = backbone.device.type == "cpu"
        self.batch = GRAIN if on_cpu else batch or BATCH
        self.needs_all_memory, self._tell = False, tell
        self._backbone, self._protocol, self._resolution = backbone, protocol, resolution
        self._settings = SamplerSettings(protocol.sampler, protocol.steps, protocol.guidance)
        side = resolution or backbone.resolution
        self._most_kept = max(1, KEPT_BYTES // (3 * side**2))
        self._waiting: deque[tuple[Wanted, Future[np.ndarray]]] = deque()
        self._kept = _Kept()
        self._begun: _Batch | None = None
        self._changed = threading.Condition()

    def add(self, wanted: Sequence[Wanted]) -> list[Future[np.ndarray]]:
        """Each picture to come, uint8 (R, R, 3), in their order."""
        with self._changed:
            futures = [self._future_of(each) for each in wanted]
            self._changed.notify_all()
        return futures

    def _future_of(self, wanted: Wanted) -> Future[np.ndarray]:
        # Seeds that are a concept's own bring no picture twice.
        may_recur = self._protocol.seeds == "class" and not wanted.request.trained
        content = wanted.content if may_recur else ""
        if {name.removesuffix(OUT) for name in wanted.vectors} < self._backbone.encoders.keys():
            content += wanted.concept.placeholder  # which the other text encoders read
        if may_recur and (known := self._kept.get(content)) is not None:
            return known
        future: Future[np.ndarray] = Future()
        self._waiting.append((wanted, future))
        if may_recur:
            self._kept.add(content, future, self._most_kept)
        return future

    @property
    def words(self) -> int:
        """How many words the pictures that wait or are being drawn would be all of; 0 where there is none."""
        with self._changed:
            pictures = len(self._waiting) + (len(self._begun.pictures) if self._begun else 0)
        return -(-pictures // self._protocol.pictures)

    def wait(self) -> None:
        """Returns when there is something to draw."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._begun)

    def advance(self) -> None:
        """One step of the batch that is being drawn, or of a new one of those that have waited longest."""
        if self._begun is None:
            self._begun = self._next()
        if self._begun is None:
            return
        batch, full = self._begun, False
        try:
            with full_memory():
                next(batch.steps)
        except StopIteration as end:
            for (_, future), pixels in zip(batch.pictures, end.value, strict=False):  # without what filled the batch up
                future.set_result(pixels)
        except Exception as error:  # noqa: BLE001 - it is theirs who asked for the pictures
            full = isinstance(error, torch.OutOfMemoryError) and not (
                len(batch.pictures) == 1 and self.needs_all_memory
            )
            for _, future in () if full else batch.pictures:
                future.set_exception(error)
        else:
            return
        self._begun = None
        if full:  # outside the handler, whose error holds the tensors
            self._make_room(batch)

    def _next(self) -> _Batch | None:
        with self._changed:
            pictures = [self._waiting.popleft() for _ in range(min(self.batch, len(self._waiting)))]
        if not pictures:
            return None
        wanted = [each for each, _ in pictures]
        grain = min(GRAIN, self.batch)
        wanted += wanted[-1:] * (-len(wanted) % grain)
        names: dict[int, str] = {}
        words: dict[str, Vectors] = {}
        prompts = []
        for each in wanted:
            name = names.setdefault(id(each.vectors), alias(len(names), each.concept.placeholder))
            words[name] = each.vectors
            prompts.append(each.prompt(name))
        seeds = [each.request.seed for each in wanted]
        steps = drawing(self._backbone, prompts, seeds, words, self._settings, self._resolution)
        return _Batch(pictures, steps)

    def _make_room(self, batch: _Batch) -> None:
        """After a batch ran out of memory: its pictures wait again, for batches half as large, or for all of the memory."""
        count = len(batch.pictures)
        if count == 1:
            self.needs_all_memory, done = True, "pictures are drawn between two training steps from now on"
        else:
            self.batch, done = count // 2, f"this worker draws {count // 2} at once from now on"
        give_memory_back()
        with self._changed:
            self._waiting.extendleft(reversed(batch.pictures))
        self._tell(f"drawing {count} pictures at once ran out of memory", done)
