"""How long a worker may be silent before it counts as lost."""

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the limits are options of a job, and the worker brings torch along
    from pipeline.scheduling.worker_interface import Pulse

Phase = Literal["placing", "loading", "ready", "concept"]


class Overdue(Exception):  # noqa: N818 - it is handled beside Ray's errors, and means that time is up
    """A worker missed its deadline. The message says which one."""


@dataclass(slots=True)
class _Clock:
    phase: Phase
    since: float = field(default_factory=time.monotonic)
    seen: tuple[object, ...] = ()


@dataclass(slots=True)
class Deadlines:
    """Seconds without progress after which a worker counts as lost, for each phase.

    placing: from the request for an actor to a running process; new machines boot meanwhile. loading: to load the model.
    stall: without an optimiser step, a picture or a new stage of a concept. It does not depend on how long a concept takes
    in all, so a hanging worker is found equally soon in long and short runs.
    concept: for one whole concept; None for no limit.
    """

    placing: float = 3600.0
    loading: float = 1800.0
    stall: float = 900.0
    concept: float | None = None
    _clocks: dict[Hashable, _Clock] = field(default_factory=dict)
    _begun: dict[Hashable, float] = field(default_factory=dict)

    def begin(self, who: Hashable, phase: Phase) -> None:
        self._clocks[who] = _Clock(phase)
        self._begun[who] = time.monotonic()

    def end(self, who: Hashable) -> None:
        self._clocks.pop(who, None)
        self._begun.pop(who, None)

    def hear(self, worker: Hashable, pulse: "Pulse") -> None:
        """Restarts the worker's clock, and that of each concept that made progress or waits for a model that did."""
        self._see(worker, (time.monotonic(),))
        for name, (doing, step) in pulse.calls.items():
            on_the_model = doing in ("waiting", "training", "sampling")
            self._see(name, (doing, step, pulse.beats if on_the_model else None))

    def _see(self, who: Hashable, seen: tuple[object, ...]) -> None:
        clock = self._clocks.get(who)
        if clock is not None and clock.seen != seen:
            clock.seen, clock.since = seen, time.monotonic()

    def overdue(self, worker: Hashable, concepts: Iterable[str]) -> Overdue | None:
        now = time.monotonic()
        clock = self._clocks[worker]
        if clock.phase != "ready":
            limit = self.placing if clock.phase == "placing" else self.loading
            said = "no node had room for a worker" if clock.phase == "placing" else "the model was not loaded"
            return Overdue(f"{said} within {limit:.0f} s") if now - clock.since > limit else None
        if now - clock.since > self.stall:
            return Overdue(f"the worker did not answer for {self.stall:.0f} s")
        for name in concepts:
            if now - self._clocks[name].since > self.stall:
                return Overdue(f"no progress for {self.stall:.0f} s")
            if self.concept is not None and now - self._begun[name] > self.concept:
                return Overdue(f"not done within the {self.concept:.0f} s that a concept may take")
        return None
