"""The worker holds one frozen model and serves K concepts at once, one call each.

A call reads its images on its own thread; everything that touches the model runs on one thread, between the steps of
the shared batch. Nothing here knows of Ray: driver.py makes actors of this class.
"""

import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.backbones import PromptError, load_backbone
from pipeline.grid import draw_grid, encode_png
from pipeline.images import ImageSetError, load_images
from pipeline.inversion import InversionError, Slot, new_slot, train_step
from pipeline.prompting import requests_for
from pipeline.protocols import Protocol
from pipeline.records import Concept, Done, Failure, ImageSet, Sample, Stage, Task, Word
from pipeline.run_folder import Marker, RunFolder
from pipeline.sampling import SamplerSettings, sample
from pipeline.settings import InversionSettings
from pipeline.tables import embedding_rows, sample_rows
from pipeline.words import encode_word

Result = TypeVar("Result")

# Public folder -> the name its file has under an attempt.
ATTEMPT_FILES = {"words": "word.safetensors", "grids": "grid.png"}


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What every worker of a run has in common. dtype: "float32", "bfloat16" or "float16"."""

    model: str
    device: str
    dtype: str
    threads: int
    inversion: InversionSettings
    protocol: Protocol
    run: RunFolder
    storage_options: dict[str, str]


class Worker:
    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.backbone = load_backbone(settings.model, settings.device, settings.dtype)
        self._digest_at_start = self.backbone.weights_digest()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._slots: dict[int, tuple[Slot, Future[Word]]] = {}
        threading.Thread(target=self._serve_model, daemon=True, name="model").start()

    def ready(self) -> None:
        """Returns once the model is loaded."""

    def weights_digests(self) -> tuple[str, str]:
        """The digest of the weights when they were loaded, and now."""
        return self._digest_at_start, self._on_model(self.backbone.weights_digest)

    def invert(self, task: Task) -> Done | Failure:
        """Learns, samples and commits one concept. Whatever is wrong with the concept comes back as a Failure."""
        stage: Stage = "images"
        try:
            images = load_images(
                task.urls,
                self.settings.inversion.resolution or self.backbone.resolution,
                self.settings.inversion.crop,
                self.settings.storage_options,
                minimum=self.settings.inversion.minimum_images,
            )
            stage = "inversion"
            word = self._train(task.concept, images)
            stage = "sampling"
            samples = self._on_model(lambda: self._sample(task.concept, images, word))
            return self._commit(task, images, word, samples)
        except (ImageSetError, InversionError, PromptError) as error:
            return Failure(task.concept.name, stage, str(error))

    def _train(self, concept: Concept, images: ImageSet) -> Word:
        done: Future[Word] = Future()

        def admit() -> None:
            slot = new_slot(concept, images.pixels, self.backbone, self.settings.inversion)
            self._slots[id(slot)] = slot, done

        self._on_model(admit)
        return done.result()

    def _on_model(self, call: Callable[[], Result]) -> Result:
        """Runs `call` on the model's thread, between two steps, and gives back what it returns or raises."""
        done: Future[Result] = Future()

        def run() -> None:
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                done.set_exception(error)

        self._calls.put(run)
        return done.result()

    def _serve_model(self) -> None:
        while True:
            while not self._slots or not self._calls.empty():
                self._calls.get()()
            try:
                ended = train_step(self.backbone, [slot for slot, _ in self._slots.values()])
            except Exception as error:  # noqa: BLE001 - a step that fails fails every concept in it; none may wait for ever
                for _, done in self._slots.values():
                    done.set_exception(error)
                self._slots.clear()
                continue
            for slot, end in ended:
                _, done = self._slots.pop(id(slot))
                if isinstance(end, Word):
                    done.set_result(end)
                else:
                    done.set_exception(end)

    def _sample(self, concept: Concept, images: ImageSet, word: Word) -> list[Sample]:
        protocol = self.settings.protocol
        requests = requests_for(concept, protocol, self.settings.inversion.seed)
        sampler = SamplerSettings(protocol.sampler, protocol.steps, protocol.guidance)
        resolution = self.settings.inversion.resolution
        samples = [
            Sample(concept.name, "training", "", "", index, 0, encode_png(pixels))
            for index, pixels in enumerate(images.pixels)
        ]
        for trained, vectors in ((True, word.vectors), (False, word.initial)):
            some = [request for request in requests if request.trained == trained]
            pictures = sample(self.backbone, [request.prompt for request in some], [request.seed for request in some],
                              {concept.placeholder: vectors}, sampler, resolution)  # fmt: skip
            samples += [
                Sample(
                    concept.name,
                    request.kind,
                    request.prompt,
                    request.stated,
                    request.index,
                    request.seed,
                    encode_png(picture),
                )
                for request, picture in zip(some, pictures, strict=True)
            ]
        return samples

    def _commit(self, task: Task, images: ImageSet, word: Word, samples: Sequence[Sample]) -> Done:
        """Everything under the attempt's own id first, the marker last; then, if this attempt counts, the public files."""
        run, name, attempt = self.settings.run, task.concept.name, uuid.uuid4().hex[:12]
        public = {
            run.word_path(name): encode_word(word.placeholder, word.vectors),
            run.grid_path(name): draw_grid(f"{name}   {word.placeholder}   {word.steps} steps", samples),
        }
        files = {
            "embedding.parquet": _parquet(embedding_rows(task.concept, task.fingerprint, word, images)),
            "samples.parquet": _parquet(sample_rows(task.fingerprint, samples)),
            **{ATTEMPT_FILES[path.split("/")[0]]: data for path, data in public.items()},
        }
        paths = {file: run.attempt_path(name, task.fingerprint, attempt, file) for file in files}
        for file, data in files.items():
            run.storage.write_bytes(paths[file], data)
        counts = run.commit(Marker(name, task.fingerprint, attempt, word.steps, word.seconds))
        if counts:
            for path, data in public.items():
                run.storage.write_bytes(path, data)
        # What is still under the attempt's id after this waits for the tables; see publish.py.
        for file in ATTEMPT_FILES.values() if counts else files:
            run.storage.delete(paths[file])
        return Done(name, word.steps, word.seconds)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
