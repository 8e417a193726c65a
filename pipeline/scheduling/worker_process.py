"""The Ray actor: a process that holds one worker.

worker.py is imported inside the actor only, so that the driver needs no torch, which takes seconds and memory to import.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline.logged_events import listening
from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.last_output import whereabouts
from pipeline.scheduling.shared_paths import refuse_unseen
from pipeline.scheduling.termination import before_termination
from pipeline.scheduling.worker_interface import Pulse, WorkerSettings

if TYPE_CHECKING:
    from pipeline.scheduling.worker import Worker


class WorkerProcess:
    """The actor's methods. Calls may run at the same time, each on its own thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Only imports: its return tells the driver that the actor has a machine."""
        import pipeline.scheduling.worker  # noqa: F401
        from pipeline.models.fast_passes import keep_compiled_code

        keep_compiled_code()
        self.settings = settings
        self._loaded: Worker | None = None
        self._to_the_end = ExitStack()
        before_termination(self.checkpoint)

    def load(self) -> int:
        """Loads the frozen model and returns the number of slots. The driver calls it before any concept."""
        from pipeline.scheduling.worker import Worker

        refuse_unseen(self.settings.shared_paths)
        self._loaded = Worker(self.settings)
        self._to_the_end.enter_context(listening(self._loaded.note))
        return self._loaded.slots

    def invert(self, concept: Concept) -> Done | Failure:
        """Learns, samples and commits one concept. A fault of the concept is returned as a Failure, not raised."""
        return self._worker.invert(concept)

    def pulse(self) -> Pulse:
        """Answers at once, whatever the worker is doing."""
        return whereabouts(self._worker.pulse())

    def checkpoint(self) -> None:
        """Writes a checkpoint of every concept in training at its present step; returns when all are stored."""
        if self._loaded is not None:
            self._loaded.checkpoint()

    def weights_digests(self) -> tuple[str, str]:
        """The digest of the weights when they were loaded, and now."""
        return self._worker.weights_digests()

    @property
    def _worker(self) -> "Worker":
        assert self._loaded is not None, "the driver calls `load` first"
        return self._loaded
