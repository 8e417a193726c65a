"""The actor that the driver makes: a process that holds one worker.

Where it is made, scheduling needs no torch, which takes seconds and much memory to import. Where it runs, it imports
worker.py.
"""

from typing import TYPE_CHECKING

from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.last_output import whereabouts
from pipeline.scheduling.shared_paths import refuse_unseen
from pipeline.scheduling.termination import before_termination
from pipeline.scheduling.worker_interface import Pulse, WorkerSettings

if TYPE_CHECKING:
    from pipeline.scheduling.worker import Worker


class WorkerProcess:
    """What an actor answers. Calls may come at the same time, each on a thread of its own."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Imports what it needs, and no more: its return tells the driver that a machine was found."""
        import pipeline.scheduling.worker  # noqa: F401

        self.settings = settings
        self._loaded: Worker | None = None
        before_termination(self.checkpoint)

    def load(self) -> int:
        """Loads the frozen model; returns the number of slots. No concept comes before that."""
        from pipeline.scheduling.worker import Worker

        refuse_unseen(self.settings.shared_paths)
        self._loaded = Worker(self.settings)
        return self._loaded.slots

    def invert(self, concept: Concept) -> Done | Failure:
        """Learns, samples and commits one concept. Whatever is wrong with the concept comes back as a Failure."""
        return self._worker.invert(concept)

    def pulse(self) -> Pulse:
        """How the worker is doing, answered at once."""
        return whereabouts(self._worker.pulse())

    def checkpoint(self) -> None:
        """Returns once every concept in training could go on elsewhere from the step it is at."""
        if self._loaded is not None:
            self._loaded.checkpoint()

    def weights_digests(self) -> tuple[str, str]:
        """The digest of the weights when they were loaded, and now."""
        return self._worker.weights_digests()

    @property
    def _worker(self) -> "Worker":
        assert self._loaded is not None, "the driver calls `load` first"
        return self._loaded
