"""Workers for the tests of the driver: what becomes of a concept is in its name, and everything done is on record."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.records import Concept, Done, Event, Failure
from pipeline.scheduling.last_output import whereabouts
from pipeline.scheduling.worker_interface import Doing, Pulse, WorkerSettings
from pipeline.scheduling.worker_process import WorkerProcess
from pipeline.store.checkpoints import Checkpoint

PRINT = "f" * 64


class ScriptedWorker(WorkerProcess):
    """Trains nothing. A concept is handled by the method that the first word of its name says.

    Each call leaves a file `<concept>@<pid>@<number>` in the folder `calls` of the run.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self._doing: dict[str, Doing] = {}
        self._calls = Path(settings.run.storage.url) / "calls"
        self._calls.mkdir(parents=True, exist_ok=True)
        self._deaf = False

    def load(self) -> int:
        return self.settings.slots or 2

    def weights_digests(self) -> tuple[str, str]:
        return "same", "same"

    def pulse(self) -> Pulse:
        while self._deaf:
            time.sleep(1)
        calls = {name: (doing, 0) for name, doing in tuple(self._doing.items())}
        return whereabouts(Pulse(0, 0, self.settings.slots or 2, calls, None))

    def checkpoint(self) -> None:
        for name in tuple(self._doing):
            self._leave_checkpoint(name, 1)

    def invert(self, concept: Concept) -> Done | Failure:
        name = concept.name
        (self._calls / f"{name}@{os.getpid()}@{time.monotonic_ns()}").touch()
        self._doing[name] = "training"
        try:
            return getattr(self, name.split("-")[0])(concept)
        finally:
            self._doing.pop(name, None)

    def quick(self, concept: Concept) -> Done:
        return Done(concept.name, PRINT, 1, 0.0)

    def long(self, concept: Concept) -> Done:
        time.sleep(1)
        return self.quick(concept)

    def bad(self, concept: Concept) -> Failure:
        return Failure(concept.name, "images", "no readable image", fingerprint=PRINT)

    def poison(self, concept: Concept) -> Done:
        """Kills its worker each time."""
        os.kill(os.getpid(), signal.SIGKILL)
        return self.endless(concept)

    def gasping(self, concept: Concept) -> Done:
        """Kills its worker the first time, a moment after it wrote why."""
        if not (self._calls / f"{concept.name}@killed").exists():
            (self._calls / f"{concept.name}@killed").touch()
            time.sleep(5)
            print(f"{concept.name}: the GPU fell off the bus", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.quick(concept)

    def advancing(self, concept: Concept) -> Done:
        """Kills its worker four times, but never without having got further."""
        before = self.settings.run.checkpoint(concept.name)
        step = before.step if before else 0
        if step < 4:
            self._leave_checkpoint(concept.name, step + 1)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.quick(concept)

    def broken(self, concept: Concept) -> Done:
        """Its call raises, and the worker lives."""
        raise RuntimeError("the store was out of reach")

    def endless(self, concept: Concept) -> Done:
        """Hangs."""
        threading.Event().wait()
        return self.quick(concept)

    def drawn(self, concept: Concept) -> Done:
        """Has left its slot, and is held like the next."""
        self._doing[concept.name] = "sampling"
        return self.held(concept)

    def held(self, concept: Concept) -> Done:
        """Hangs until there is a file `release` in the run folder."""
        while not (self._calls.parent / "release").exists():
            time.sleep(0.1)
        return self.quick(concept)

    def hungry(self, concept: Concept) -> Done:
        """Takes memory until something stops it, or 16 GB are gone."""
        taken = []
        for _ in range(160):
            taken.append(np.ones(100_000_000, np.uint8))
            time.sleep(0.02)
        return self.quick(concept)

    def deaf(self, concept: Concept) -> Done:
        """Hangs, and takes the whole process with it."""
        self._deaf = True
        return self.endless(concept)

    def _is_first_to_load(self) -> bool:
        try:
            (self._calls.parent / "loaded").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _leave_checkpoint(self, name: str, step: int) -> None:
        empty = {"text_encoder": np.zeros((1, 1), np.float32)}
        self.settings.run.save_checkpoint(Checkpoint(name, PRINT, step, 5e-3, 0.0, (), empty, empty, empty))


class WorkerThatTellsSlowly(ScriptedWorker):
    """Its first pulse takes what there is to tell, and arrives after the only concept is done."""

    def pulse(self) -> Pulse:
        told = self._calls.parent / "told"
        if told.exists():
            return super().pulse()
        told.touch()
        time.sleep(3)
        event = Event("2026-01-01T00:00:00.000+00:00", "picture_rejected", "told once")
        return replace(super().pulse(), events=(event,))


class WorkerWithoutModel(ScriptedWorker):
    def load(self) -> int:
        raise FileNotFoundError("there is no model.safetensors")


class WorkerThatDiesLoading(ScriptedWorker):
    def load(self) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


class WorkerThatLoadsForEver(ScriptedWorker):
    def load(self) -> int:
        threading.Event().wait()
        return 0


class OneLoadsForEver(ScriptedWorker):
    """The first of them that loads is quick about it."""

    def load(self) -> int:
        if not self._is_first_to_load():
            threading.Event().wait()
        return super().load()


class WorkersOfOneAndFourSlots(ScriptedWorker):
    """Two of them, which are ready at the same time."""

    def load(self) -> int:
        other = self._calls.parent / "other loaded"
        if not self._is_first_to_load():
            other.touch()
            return 4
        while not other.exists():
            time.sleep(0.1)
        return 1
