"""What driver and worker exchange: the worker's settings, and its pulse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.models.start_encoder import StartEncoder
from pipeline.protocols import Protocol
from pipeline.records import Concept, Event, Source
from pipeline.settings import MOST_SLOTS, CheckpointGradients, Compile, InversionSettings, ModelSettings
from pipeline.store.checkpoints import CHECKPOINT_SECONDS
from pipeline.store.fingerprint import content_of, fingerprint
from pipeline.store.run_folder import RunFolder
from pipeline.training.start_file import StartFile

Look = Callable[[np.ndarray, Sequence[str]], tuple[str, ...]]
See = Callable[[np.ndarray], np.ndarray]
Doing = Literal["images", "waiting", "training", "sampling", "committing"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings that all workers of a run share.

    slots: concepts in training at once; None: the worker measures it. concepts: how many a worker will train, about.
    checkpoint_gradients: recompute the denoiser's
    activations instead of keeping them, which is slower and saves memory; "auto": if that buys enough slots.
    compile: see compile_choice.py.
    checkpoint_seconds: between two step checkpoints.
    shared_paths: local paths that every worker must see. longest: concepts whose prompts have to fit into the model's context.
    look: finds the vocabulary's words that look most like the pictures (for settings.start "nearest").
    start_encoder: computes first vectors from the pictures (for settings.start "pictures"). start_file: computes them from the
    features that `see` finds in the pictures (for settings.start "fitted"). gated: new words are candidates.
    """

    model: str
    model_digest: str
    device: str
    threads: int
    slots: int | None
    inversion: InversionSettings
    protocol: Protocol
    run: RunFolder
    storage_options: dict[str, str] = field(repr=False)
    config_digest: str = ""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    look: Look | None = None
    start_encoder: StartEncoder | None = None
    start_file: StartFile | None = None
    see: See | None = None
    shared_paths: tuple[str, ...] = ()
    longest: tuple[Concept, ...] = ()
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    checkpoint_gradients: CheckpointGradients = "auto"
    compile: Compile = "auto"
    concepts: int = MOST_SLOTS
    gated: bool = False

    def fingerprint(self, concept: Concept, sources: Sequence[Source]) -> str:
        digests = [content_of(source) for source in sources]
        return fingerprint(concept, digests, self.model_digest, self.model_settings.label, self.inversion)


@dataclass(frozen=True, slots=True)
class Pulse:
    """A worker's answer to "how are you?".

    beats: rises with every step and every sampled batch. steps: optimiser steps so far, over all concepts.
    calls: concept -> its stage and its step.
    checkpoint_age: seconds since the last checkpoint; None while nothing is in training.
    events: since the last pulse. node: the worker's machine. output: its last lines, read from output_file on that
    machine.
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
