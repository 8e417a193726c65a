"""The worker: one frozen model, several concepts at once, one call for each concept.

A call lists and reads its images on its own thread, waits for a slot of the shared batch, and commits the word. Only training
and sampling run on the model's thread. Nothing here depends on Ray; the actor is in worker_process.py.
"""

import functools
import queue
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import torch

from pipeline.inputs.image_sets import ImageSetError, find_sources, load_images
from pipeline.inputs.sidecars import captions_of, extras_of
from pipeline.logged_events import now
from pipeline.models.base import PromptError
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Done, Event, EventKind, Failure, ImageSet, Sample, Stage, Word
from pipeline.sampling.grid import draw_grid, encode_png
from pipeline.sampling.picture_pool import PicturePool
from pipeline.sampling.pictures_of_a_word import (
    refuse_long_prompts,
    refuse_long_protocol,
    samples_of,
    wanted_of,
)
from pipeline.sampling.prompting import requests_for
from pipeline.sampling.sampler import pictures_of_noun
from pipeline.scheduling.compile_choice import make_faster
from pipeline.scheduling.continuous_batch import ContinuousBatch
from pipeline.scheduling.slot_count import measure_pictures, measure_slots
from pipeline.scheduling.worker_interface import Doing, Pulse, WorkerSettings
from pipeline.settings import InversionSettings
from pipeline.store.checkpoints import Checkpoint
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.model_spec import WordSpec
from pipeline.store.parquet.parquet_tables import data_of
from pipeline.store.run_folder import Marker
from pipeline.store.run_tables import embedding_rows, sample_rows
from pipeline.store.storage import Storage, StorageError, StorageNotFoundError, StorageTooLargeError
from pipeline.store.word_files import MAX_BYTES, encode_word
from pipeline.training.importing import imported_word
from pipeline.training.inversion import DivergedError, InversionError, SideInformation, Slot, new_slot, restore
from pipeline.training.start_file import StartFileError

# Public folder -> the name its file has under an attempt.
ATTEMPT_FILES = {"words": "word.safetensors", "candidates": "word.safetensors", "grids": "grid.png"}
SLOWER = 4.0  # the learning rate is divided by this for a word that diverged


Seen = dict[str, np.ndarray]  # text encoder -> (D,), what a start encoder makes of pictures


class Worker:
    """slots: how many concepts it trains at once."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Loads the frozen model, which can take minutes. Raises ModelError and ProtocolError."""
        self.settings = settings
        self._doing: dict[str, Doing] = {}
        self._checkpoints: queue.SimpleQueue[list[Checkpoint]] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._kept = time.monotonic()
        self._drawn: dict[str, Seen] = {}  # by initializer
        torch.set_num_threads(settings.threads)
        if settings.device == "cuda":  # a GPU takes seconds to be opened, while the weights are read
            threading.Thread(target=lambda: torch.zeros(1, device="cuda"), daemon=True, name="GPU").start()
        with self._phase("the model was loaded"):
            self.backbone = load_backbone(
                settings.model,
                settings.device,
                settings.model_settings,
                settings.storage_options,
                settings.model_digest,
                settings.config_digest,
            )
        encoders = self.backbone.encoders_of(settings.inversion.encoders, settings.inversion.word_place)
        refuse_long_protocol(self.backbone, settings.longest, settings.protocol, encoders)
        # On a GPU the host digests while the device is measured. On a CPU it would be measured beside the digest.
        with ThreadPoolExecutor(1) as beside:
            digest = beside.submit(self._digest)
            if settings.device == "cpu":
                digest.result()
            with self._phase("the number of slots was found"):
                self.slots = self._slots()
            self._digest_at_start = digest.result()
        if settings.compile != "off" and (settings.device == "cuda" or settings.compile != "auto"):
            with self._phase("compiling the model was tried"):
                make_faster(
                    self.backbone, settings.inversion, self.slots, settings.compile, settings.concepts,
                    functools.partial(self._note, "not_compiled"),
                )  # fmt: skip
        self.batch = ContinuousBatch(
            self.backbone, self.slots, self._keep, settings.checkpoint_seconds,
            functools.partial(self._note, "out_of_memory"), settings.checkpoint_gradients == "auto", self._pool(),
        )  # fmt: skip
        threading.Thread(target=self._write_checkpoints, daemon=True, name="checkpoints").start()

    def _digest(self) -> str:
        with self._phase("the weights were digested"):
            return self.backbone.weights_digest()

    def _slots(self) -> int:
        settings = self.settings
        if settings.slots is None:
            return measure_slots(self.backbone, settings.inversion, settings.checkpoint_gradients, settings.concepts)
        self.backbone.checkpoint_gradients(settings.checkpoint_gradients == "on")
        return settings.slots

    def _pool(self) -> PicturePool:
        protocol, side = self.settings.protocol, self.settings.inversion.resolution
        at_once = measure_pictures(self.backbone, protocol, side)
        return PicturePool(self.backbone, protocol, side, at_once, functools.partial(self._note, "out_of_memory"))

    def weights_digests(self) -> tuple[str, str]:
        """The digest of the weights when they were loaded, and now."""
        return self._digest_at_start, self.batch.run(self.backbone.weights_digest)

    def pulse(self) -> Pulse:
        training = self.batch.training
        calls = {name: (doing, training.get(name, 0)) for name, doing in tuple(self._doing.items())}
        age = time.monotonic() - self._kept if training else None
        events = tuple(self._events.get() for _ in range(self._events.qsize()))
        return Pulse(self.batch.beats, self.batch.steps, self.batch.slots, calls, age, events)

    def note(self, event: Event) -> None:
        """Hands the event to the driver with the next pulse."""
        self._events.put(event)

    def _note(self, kind: EventKind, cause: str, action: str, concept: str = "") -> None:
        self.note(Event(now(), kind, cause, action, concept=concept))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.note(Event(now(), "phase", name, seconds=time.monotonic() - began))

    def checkpoint(self) -> None:
        """Writes a checkpoint of every concept in training at its present step; returns when all are stored."""
        self._save(self.batch.snapshots())

    def _keep(self, checkpoints: list[Checkpoint]) -> None:
        if self._checkpoints.empty():  # with a slow store, skip to the latest instead of queueing old ones
            self._checkpoints.put(checkpoints)

    def _write_checkpoints(self) -> None:
        while True:
            try:
                self._save(self._checkpoints.get())
            except StorageError as error:
                self._note("checkpoint_not_written", str(error), "training goes on, and the next one is due as usual")

    def _save(self, checkpoints: list[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self.settings.run.save_checkpoint(checkpoint)
        self._kept = time.monotonic()

    def invert(self, concept: Concept) -> Done | Failure:
        """Learns, samples and commits one concept. A fault of the concept is returned as a Failure, not raised."""
        name, settings, run = concept.name, self.settings, self.settings.run
        stage: Stage = "images"
        fingerprint = ""
        try:
            self._doing[name] = "images"
            images = self._load(concept)
            for image in images.rejected:
                used = f"the other {len(images.pixels)} pictures are used"
                self._note("picture_rejected", f"{image.url}: {image.reason}", used, name)
            fingerprint = settings.fingerprint(concept, images.sources)
            if run.is_committed(name, fingerprint):  # by another driver of the same run
                try:
                    marker = run.marker(name, fingerprint)
                    return Done(name, fingerprint, marker.steps, marker.seconds)
                except DamagedFileError as error:
                    say_damaged(f"the marker of {name}", str(error))
                    run.withdraw(name, fingerprint)
            stage = "inversion"
            word = self._import(concept, images) if concept.word_file else self._train(concept, fingerprint, images)
            concept = replace(concept, vectors=len(next(iter(word.vectors.values()))))
            stage = "sampling"
            self._doing[name] = "sampling"
            samples = self._sample(concept, images, word)
            self._doing[name] = "committing"
            return self._commit(concept, fingerprint, images, word, samples)
        except (ImageSetError, InversionError, PromptError, StartFileError) as error:
            if isinstance(error, ImageSetError) and error.sources:
                fingerprint = settings.fingerprint(concept, error.sources)
            return Failure(name, stage, str(error), fingerprint=fingerprint)
        finally:
            self._doing.pop(name, None)

    def _load(self, concept: Concept) -> ImageSet:
        inversion, options = self.settings.inversion, self.settings.storage_options
        side = inversion.resolution or self.backbone.resolution
        extras = extras_of(inversion)
        sources = find_sources(concept, options, extras)
        return load_images(sources, side, inversion.crop, options, inversion.minimum_images, extras)

    def _import(self, concept: Concept, images: ImageSet) -> Word:
        """Raises InversionError."""
        settings = self.settings
        try:
            data = Storage(str(concept.word_file), settings.storage_options).read_bytes(at_most=MAX_BYTES)
        except (StorageNotFoundError, StorageTooLargeError) as error:
            raise InversionError(str(error)) from error
        return self.batch.run(lambda: imported_word(concept, data, images, self.backbone, settings.inversion))

    def _train(self, concept: Concept, fingerprint: str, images: ImageSet) -> Word:
        """Trains the word; if it diverges, once more at a lower rate. Raises InversionError and PromptError."""
        settings, protocol = self.settings.inversion, self.settings.protocol
        encoders = self.backbone.encoders_of(settings.encoders, settings.word_place)
        self.batch.run(lambda: refuse_long_prompts(self.backbone, concept, protocol, encoders))
        self._doing[concept.name] = "waiting"
        before = self.settings.run.checkpoint(concept.name)
        slower = replace(settings, learning_rate=settings.learning_rate / SLOWER)
        if before is not None and (before.fingerprint, before.learning_rate) == (fingerprint, slower.learning_rate):
            return self._attempt(concept, fingerprint, images, slower, before)  # its first attempt diverged elsewhere
        try:
            return self._attempt(concept, fingerprint, images, settings, before)
        except DivergedError as first:
            self._note("diverged", str(first), f"learned again at a rate of {slower.learning_rate:g}", concept.name)
            try:
                return self._attempt(concept, fingerprint, images, slower, None)
            except DivergedError as second:
                raise InversionError(
                    f"{first}, and at a learning rate of {slower.learning_rate:g}, {second}; try a lower --learning-rate"
                ) from second

    def _attempt(
        self,
        concept: Concept,
        fingerprint: str,
        images: ImageSet,
        settings: InversionSettings,
        before: Checkpoint | None,
    ) -> Word:
        nearest, rate = self._nearest(images), settings.learning_rate
        try:
            side_information = SideInformation(
                captions_of(concept, images), images.masks, nearest, *self._pictured(concept, images)
            )
        except ValueError as error:
            raise InversionError(str(error)) from error

        def enter() -> Slot:
            self._doing[concept.name] = "training"
            if not self.batch.training:
                self._kept = time.monotonic()
            slot = new_slot(concept, images.pixels, self.backbone, settings, side_information)
            if before is not None and (before.fingerprint, before.learning_rate) == (fingerprint, rate):
                restore(slot, before)
            return slot

        return self.batch.train(fingerprint, enter)

    def _nearest(self, images: ImageSet) -> tuple[str, ...]:
        if self.settings.inversion.start != "nearest":
            return ()
        assert self.settings.look is not None, "--start nearest needs a function that finds the words"
        return self.settings.look(images.pixels, self._vocabulary)

    def _pictured(self, concept: Concept, images: ImageSet) -> tuple[Seen | None, Seen | None]:
        """What the start encoder, or the start file, sees in the concept's pictures; and the first in the model's own of the
        initializer.
        """
        if self.settings.inversion.start == "fitted":
            file, see = self.settings.start_file, self.settings.see
            assert file is not None, "a fitted start needs its file"
            assert see is not None, "and says who reads the pictures"
            if concept.kind not in file.kinds:
                return None, None
            return file.vectors(see(images.pixels), concept.kind, concept.vectors), None
        # Only an object has a start in its pictures: the encoder reads what they show.
        if self.settings.inversion.start != "pictures" or concept.kind != "object":
            return None, None
        encoder = self.settings.start_encoder
        assert encoder is not None, "--start pictures needs a start encoder"
        seen, initializer = encoder.vectors(images.pixels), concept.initializer
        if initializer is None:
            return seen, None
        if initializer not in self._drawn:
            drawn = self.batch.run(lambda: pictures_of_noun(self.backbone, initializer))
            self._drawn[initializer] = encoder.vectors(drawn)
        return seen, self._drawn[initializer]

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        return self.backbone.vocabulary_words()

    def _sample(self, concept: Concept, images: ImageSet, word: Word) -> list[Sample]:
        """Draws beside the training and other words' pictures, and encodes the PNGs on the thread of the call."""
        requests = requests_for(concept, self.settings.protocol, self.settings.inversion.seed)
        wanted = self.batch.run(lambda: wanted_of(self.backbone, concept, word.vectors, requests))
        drawn = samples_of(wanted, self.batch.draw(wanted))
        # A mask becomes alpha, which readers of pictures leave out and the judge of the concept alone uses.
        seen = (
            images.pixels if images.masks is None else np.concatenate([images.pixels, images.masks[..., None]], axis=3)
        )
        training = [
            Sample(concept.name, "training", "", "", index, 0, encode_png(pixels)) for index, pixels in enumerate(seen)
        ]
        return training + drawn

    def _commit(
        self, concept: Concept, fingerprint: str, images: ImageSet, word: Word, samples: Sequence[Sample]
    ) -> Done:
        """Writes everything under the attempt's own id, then the marker. If this attempt won, the public files follow."""
        run, name, attempt = self.settings.run, concept.name, uuid.uuid4().hex[:12]
        architecture = self.backbone.architecture_of(word.vectors)
        learned = datetime.now(UTC).date().isoformat()
        spec = WordSpec(name, architecture, concept.kind, images.pixels.shape[1], learned, word.stated)
        word_path = run.candidate_path(name) if self.settings.gated else run.word_path(name)
        public = {
            word_path: encode_word(word.placeholder, word.vectors, self.backbone.word_keys, spec=spec),
            run.grid_path(name): draw_grid(f"{name}   {word.placeholder}   {word.steps} steps", samples),
        }
        files = {
            "embedding.parquet": data_of(embedding_rows(concept, fingerprint, word, images, learned)),
            "samples.parquet": data_of(sample_rows(fingerprint, samples)),
            **{ATTEMPT_FILES[path.split("/")[0]]: data for path, data in public.items()},
        }
        paths = {file: run.attempt_path(name, fingerprint, attempt, file) for file in files}
        for file, data in files.items():
            run.storage.write_bytes(paths[file], data)
        counts = run.commit(Marker(name, fingerprint, attempt, word.steps, word.seconds))
        if counts:
            for path, data in public.items():
                run.storage.write_bytes(path, data)
        # The rows that stay under the attempt's id are moved to the tables by publish.py.
        for file in set(ATTEMPT_FILES.values()) if counts else files:
            run.storage.delete(paths[file])
        run.forget_checkpoint(name)
        return Done(name, fingerprint, word.steps, word.seconds)
