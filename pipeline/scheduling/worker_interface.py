"""What the driver asks of a worker, apart from the worker: scheduling needs no torch, which takes seconds and much memory.

The driver makes actors of WorkerProcess, which imports worker.py where it runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.protocols import Protocol
from pipeline.records import Concept, Done, Failure, Source
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.checkpoints import CHECKPOINT_SECONDS
from pipeline.store.fingerprint import content_of, fingerprint
from pipeline.store.run_folder import RunFolder

MOST_SLOTS = 16  # that a worker tries when it measures how many it should have

Look = Callable[[np.ndarray, Sequence[str]], tuple[str, ...]]
Doing = Literal["images", "waiting", "training", "sampling", "committing"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What every worker of a run has in common.

    slots: concepts in training at once; None has the worker measure it.
    checkpoint_seconds: between two step checkpoints.
    look: the words of a vocabulary that look most like pictures, where words start from these (settings.start "nearest").
    """

    model: str
    model_digest: str
    device: str
    threads: int
    slots: int | None
    inversion: InversionSettings
    protocol: Protocol
    run: RunFolder
    storage_options: dict[str, str]
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    look: Look | None = None
    model_settings: ModelSettings = field(default_factory=ModelSettings)

    def fingerprint(self, concept: Concept, sources: Sequence[Source]) -> str:
        digests = [content_of(source) for source in sources]
        return fingerprint(concept, digests, self.model_digest, self.model_settings.label, self.inversion)


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a worker is doing.

    beats: rises whenever the model has got something done. steps: optimiser steps so far, of all concepts together.
    calls: concept -> what is being done for it, and the step it is at.
    checkpoint_age: seconds since the last checkpoint, None while nothing is in training.
    """

    beats: int
    steps: int
    slots: int
    calls: Mapping[str, tuple[Doing, int]]
    checkpoint_age: float | None


class WorkerCalls(ABC):
    """What an actor answers. The calls may come at once, on threads of their own."""

    @abstractmethod
    def __init__(self, settings: WorkerSettings) -> None:
        """Imports what it needs, and no more: that it is over tells the driver that a machine was found."""

    @abstractmethod
    def load(self) -> int:
        """Loads the frozen model; returns the number of slots. No concept comes before that."""

    @abstractmethod
    def invert(self, concept: Concept) -> Done | Failure:
        """Learns, samples and commits one concept. Whatever is wrong with the concept comes back as a Failure."""

    @abstractmethod
    def pulse(self) -> Pulse:
        """How the worker is doing, answered at once."""

    @abstractmethod
    def checkpoint(self) -> None:
        """Returns once every concept in training could go on elsewhere from the step it is at."""

    @abstractmethod
    def weights_digests(self) -> tuple[str, str]:
        """The digest of the weights when they were loaded, and now."""


class WorkerProcess(WorkerCalls):
    """The worker of worker.py, imported by the process that holds it and not by the one that asks for it."""

    def __init__(self, settings: WorkerSettings) -> None:
        from pipeline.scheduling.worker import Worker

        self._worker = Worker(settings)

    def load(self) -> int:
        return self._worker.load()

    def invert(self, concept: Concept) -> Done | Failure:
        return self._worker.invert(concept)

    def pulse(self) -> Pulse:
        return self._worker.pulse()

    def checkpoint(self) -> None:
        self._worker.checkpoint()

    def weights_digests(self) -> tuple[str, str]:
        return self._worker.weights_digests()
