"""What driver and worker tell each other: how the worker is to work, and how it is doing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.models.start_encoder import StartEncoder
from pipeline.protocols import Protocol
from pipeline.records import Concept, Event, Source
from pipeline.settings import CheckpointGradients, InversionSettings, ModelSettings
from pipeline.store.checkpoints import CHECKPOINT_SECONDS
from pipeline.store.fingerprint import content_of, fingerprint
from pipeline.store.run_folder import RunFolder

Look = Callable[[np.ndarray, Sequence[str]], tuple[str, ...]]
Doing = Literal["images", "waiting", "training", "sampling", "committing"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What every worker of a run has in common.

    slots: concepts in training at once; None has the worker measure it. checkpoint_gradients: whether the denoiser computes its
    activations twice instead of keeping them, which takes time and leaves memory; "auto": where that buys slots.
    checkpoint_seconds: between two step checkpoints.
    shared_paths: local ones that every worker has to see.
    look: the words of a vocabulary that look most like pictures, where words start from these (settings.start "nearest").
    start_encoder: what reads first vectors off pictures, where words start from these (settings.start "pictures").
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
    start_encoder: StartEncoder | None = None
    shared_paths: tuple[str, ...] = ()
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    checkpoint_gradients: CheckpointGradients = "auto"

    def fingerprint(self, concept: Concept, sources: Sequence[Source]) -> str:
        digests = [content_of(source) for source in sources]
        return fingerprint(concept, digests, self.model_digest, self.model_settings.label, self.inversion)


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a worker is doing.

    beats: rises whenever the model has got something done. steps: optimiser steps so far, of all concepts together.
    calls: concept -> what is being done for it, and the step it is at.
    checkpoint_age: seconds since the last checkpoint, None while nothing is in training.
    events: what happened since the last pulse. node: of the worker's machine. output: the last lines that it wrote,
    and output_file: where, on its machine.
    """

    beats: int
    steps: int
    slots: int
    calls: Mapping[str, tuple[Doing, int]]
    checkpoint_age: float | None
    events: tuple[Event, ...] = ()
    node: str = ""
    output: str = ""
    output_file: str = ""
