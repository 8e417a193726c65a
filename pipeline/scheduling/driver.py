"""The loop that keeps the workers (Ray actors) busy: one call per concept, several calls in flight to each worker.

The autoscaler sees pending actors as demand, so there are never more actors than concepts left. deadlines.py says when a
worker counts as lost, lost_workers.py what happens to its concepts then.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.logged_events import now
from pipeline.protocols.protocol import ProtocolError
from pipeline.records import Concept, Done, Event, EventKind, Failure
from pipeline.scheduling.calls import calls_ahead, calls_at_most, even_share
from pipeline.scheduling.deadlines import Deadlines, Overdue
from pipeline.scheduling.last_output import last_output
from pipeline.scheduling.lost_workers import Retries, last_line
from pipeline.scheduling.shared_paths import UnseenPathError
from pipeline.scheduling.worker_interface import Pulse, WorkerSettings
from pipeline.scheduling.worker_process import WorkerProcess
from pipeline.settings import MOST_SLOTS
from pipeline.store.storage import StorageError, StorageNotFoundError, StorageUnavailableError

POLL_SECONDS, PULSE_SECONDS = 1.0, 2.0
LAST_PULSE_SECONDS = 10.0
GRACE_SECONDS = 30.0  # for the last checkpoints when a run is cut short
MAY_PASS = (StorageUnavailableError, StorageNotFoundError)
PAST_TRAINING = ("sampling", "committing")
SPARE_THREADS = 4  # of an actor, beside those of its calls: for pulses and checkpoints


@dataclass(frozen=True, slots=True)
class Resources:
    """workers: the largest number of actors. cpus, gpus: per actor."""

    workers: int
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    total, done, failed: numbers of concepts. doing: stage ("images", "waiting", "training", ...) -> number of concepts.
    workers: phase ("placing": no node has room yet, "loading", "ready") -> number of workers.
    steps: optimiser steps by this driver's workers. slots, occupied: sums over the ready workers.
    restarts: calls that broke off and were tried again. checkpoint_age: of the oldest checkpoint, in seconds.
    """

    total: int
    done: int
    failed: int
    doing: dict[str, int]
    workers: dict[str, int]
    steps: int
    slots: int
    occupied: int
    restarts: int
    checkpoint_age: float | None

    @property
    def running(self) -> int:
        return sum(self.doing.values())


class WorkersNeverStartedError(RuntimeError):
    """No worker could load the model. The message is that of the last worker."""


@dataclass(slots=True)
class _Seat:
    """One actor and the calls in flight to it. `next` is the call that ends its current phase."""

    actor: Any  # an ActorHandle; Ray types its methods as those of the class, which lack .remote
    next: ray.ObjectRef | None
    phase: Literal["placing", "loading", "ready"] = "placing"
    slots: int = 0
    calls: dict[ray.ObjectRef, Concept] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    pulse: ray.ObjectRef | None = None
    last: Pulse | None = None
    asked: float = 0.0

    @property
    def name(self) -> str:
        """A short name, for logs and events."""
        return str(self.actor._actor_id.hex())[:8]

    @property
    def node(self) -> str:
        return self.last.node if self.last else ""

    @property
    def is_open(self) -> bool:
        """Whether the worker should get another call now, by its last pulse."""
        past = {name for name, (doing, _) in self.last.calls.items() if doing in PAST_TRAINING} if self.last else set()
        ahead = sum(concept.name not in past for concept in self.calls.values())
        return ahead < self.slots + calls_ahead(self.slots) and len(self.calls) < calls_at_most(self.slots)

    @property
    def refs(self) -> list[ray.ObjectRef]:
        return [*self.calls, *(ref for ref in (self.next, self.pulse) if ref is not None)]


class Driver:
    """Runs every concept to a Done or a Failure, handing each to `record` as it comes.

    worker: the class of the actors. Tests and the benchmark pass classes that crash, hang or train nothing.
    tell: called with an Event for everything that goes wrong and for each phase of a worker's start.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        resources: Resources,
        record: Callable[[Concept, Done | Failure], None],
        report: Callable[[Progress], None],
        deadlines: Deadlines,
        worker: type[WorkerProcess] = WorkerProcess,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._settings, self._resources, self._record, self._report = settings, resources, record, report
        self._tell = tell
        self._worker, self._deadlines, self._retries = worker, deadlines, Retries(settings.run)
        self._seats: list[_Seat] = []
        self._total = self._done = self._failed = self._steps_of_the_lost = 0

    def run(self, concepts: Iterator[Concept], total: int) -> tuple[str, str] | None:
        """`total` is the number of concepts. Returns the weights' digests before the first and after the last concept, from
        a worker that is still alive at the end.

        Raises WorkersNeverStartedError if workers die, or find no node, before any has loaded its model. If anything ends
        the loop early, KeyboardInterrupt included, the concepts in training are checkpointed first.
        """
        self._total = total
        try:
            while self._left:
                self._grow()
                self._feed(concepts)
                self._collect()
                self._expire()
                self._shrink()
                self._report(self.progress())
            self._hear_last()
            return self._weights_digests()
        except BaseException:
            self._checkpoint()
            raise
        finally:
            for seat in self._seats:
                ray.kill(seat.actor)

    @property
    def _left(self) -> int:
        return self._total - self._done - self._failed

    def _ready(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat.phase == "ready"]

    def _grow(self) -> None:
        resources, most = self._resources, self._settings.slots or MOST_SLOTS
        while len(self._seats) < min(resources.workers, self._left):
            remote: Any = ray.remote(self._worker)  # Ray's own types know an actor's methods only as those of its class
            actor = remote.options(
                num_cpus=resources.cpus,
                num_gpus=resources.gpus,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=calls_at_most(most) + SPARE_THREADS,
            ).remote(self._settings)
            seat = _Seat(actor, actor.__ray_ready__.remote())
            self._seats.append(seat)
            self._deadlines.begin(id(seat), "placing")

    def _feed(self, concepts: Iterator[Concept]) -> None:
        """Fills the emptiest worker first. A concept that was in flight when a worker broke is tried alone."""
        while seats := self._ready():
            most = self._share(seats)
            if (suspect := self._retries.suspect()) is not None:
                seat = min(seats, key=lambda seat: len(seat.calls))
                if not seat.calls:
                    self._retries.take(suspect)
                    self._call(seat, suspect)
                    continue
                seats.remove(seat)  # no new calls: it has to run empty first
            open_seats = [
                seat
                for seat in seats
                if seat.is_open and len(seat.calls) < most and not self._retries.any_suspect(seat.calls.values())
            ]
            if not open_seats:
                return
            concept = self._retries.again() or next(concepts, None)
            if concept is None:
                return
            self._call(min(open_seats, key=lambda seat: len(seat.calls) / seat.slots), concept)

    def _share(self, ready: list[_Seat]) -> int:
        """How many concepts a worker may hold now. One that loads its model is counted on, and thought to be like the largest."""
        rooms = [calls_at_most(seat.slots) for seat in ready]
        loading = sum(seat.phase == "loading" for seat in self._seats)
        return even_share(self._left, rooms + loading * [max(rooms)])

    def _call(self, seat: _Seat, concept: Concept) -> None:
        ref = seat.actor.invert.remote(concept)
        seat.calls[ref] = concept
        self._deadlines.begin(concept.name, "concept")

    def _collect(self) -> None:
        now = time.monotonic()
        for seat in self._ready():
            if seat.pulse is None and now - seat.asked >= PULSE_SECONDS:
                seat.pulse, seat.asked = seat.actor.pulse.remote(), now
        flying = {ref: seat for seat in self._seats for ref in seat.refs}
        landed, rest = ray.wait(list(flying), num_returns=1, timeout=POLL_SECONDS)
        landed += ray.wait(rest, num_returns=len(rest), timeout=0)[0] if landed and rest else []
        # Pulses first: a pulse delivers its events once only, and the loss of the worker closes its seat.
        for ref in sorted(landed, key=lambda ref: ref != flying[ref].pulse):
            self._land(ref, flying[ref])

    def _land(self, ref: ray.ObjectRef, seat: _Seat) -> None:
        if seat not in self._seats:
            return  # lost, through another of its calls
        try:
            result: Any = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, UnseenPathError):
                raise UnseenPathError(str(error.cause)) from None  # another worker there would not see it either
            if isinstance(error.cause, ProtocolError) and ref == seat.next:
                raise ProtocolError(str(error.cause)) from None  # the model is the same for all workers
            if ref == seat.next:
                self._lose(seat, error)
            elif ref == seat.pulse:
                seat.pulse = None
            elif isinstance(error.cause, StorageError) and not isinstance(error.cause, MAY_PASS):
                # Faults of a concept's images come back as a Failure. This one is of the run folder, so it concerns all concepts.
                raise StorageError(last_line(error)) from None
            else:
                # The actor is alive and only this call failed, perhaps because the store could not be reached.
                self._break_off(seat, seat.calls.pop(ref), error)
            return
        except RayError as error:
            # After any other error the actor is not used again. It may still be running.
            self._lose(seat, error)
            return
        if ref == seat.next:
            self._advance(seat, result)
        elif ref == seat.pulse:
            seat.pulse, seat.last = None, result
            self._hear(seat, result)
            self._deadlines.hear(id(seat), result)
        else:
            self._finish(seat.calls.pop(ref), result)

    def _advance(self, seat: _Seat, result: int | None) -> None:
        if seat.phase == "placing":
            seconds = time.monotonic() - seat.began
            self._tell(Event(now(), "phase", "a machine and a process were found", worker=seat.name, seconds=seconds))
            seat.phase, seat.next = "loading", seat.actor.load.remote()
            self._deadlines.begin(id(seat), "loading")
        else:
            seat.phase, seat.next, seat.slots = "ready", None, int(result or 1)
            self._deadlines.begin(id(seat), "ready")
            self._retries.worker_started()

    def _finish(self, concept: Concept, result: Done | Failure) -> None:
        self._deadlines.end(concept.name)
        self._retries.forget(concept)
        self._done += isinstance(result, Done)
        self._failed += isinstance(result, Failure)
        self._record(concept, result)

    def _expire(self) -> None:
        for seat in tuple(self._seats):
            if seat.phase == "placing" and self._retries.ever_started:
                continue  # workers did find room before, so machines will come back
            late = self._deadlines.overdue(id(seat), [concept.name for concept in seat.calls.values()])
            if late is not None:
                self._lose(seat, late)

    def _lose(self, seat: _Seat, error: RayError | Overdue) -> None:
        self._release(seat)
        held, output = len(seat.calls), last_output(seat.last)
        kind: EventKind = "worker_lost" if seat.phase == "ready" else "worker_not_started"
        action = f"its {held} concepts are tried again" if held else "another is started while there is work for it"
        self._tell(Event(now(), kind, last_line(error), action, seat.name, seat.node, output=output))
        if seat.phase != "ready":
            reason = self._retries.worker_never_started(error, self._resources.workers)
            if reason is not None:
                raise WorkersNeverStartedError(reason)
        for concept in seat.calls.values():
            self._break_off(seat, concept, error)

    def _break_off(self, seat: _Seat, concept: Concept, error: RayError | Overdue) -> None:
        self._deadlines.end(concept.name)
        failure = self._retries.charge(concept, error)
        alone = "it is tried again alone" if self._retries.any_suspect([concept]) else "it goes on from its checkpoint"
        action = "it is recorded as a failure" if failure else alone
        self._tell(Event(now(), "call_broken_off", last_line(error), action, seat.name, seat.node, concept.name))
        if failure is not None:
            self._finish(concept, failure)

    def _shrink(self) -> None:
        """Ends workers that have nothing left to do, so that their nodes can be released while the last concepts finish.

        Workers without a model go first: one with a model is needed at the end for the weights' digest.
        """
        spare = len(self._seats) - max(self._left, 1)
        idle = sorted((seat for seat in self._seats if not seat.calls), key=lambda seat: seat.phase == "ready")
        for seat in idle[: max(0, spare)]:
            self._hear_last(seat)
            self._release(seat)

    def _hear(self, seat: _Seat, pulse: Pulse) -> None:
        for event in pulse.events:
            self._tell(replace(event, worker=seat.name, node=pulse.node))

    def _hear_last(self, *seats: _Seat) -> None:
        """Collects the last pulse of ready workers (all by default) before they end."""
        for seat in seats or tuple(self._ready()):
            if seat.phase == "ready":
                asked = [ref for ref in (seat.pulse, seat.actor.pulse.remote()) if ref is not None]
                seat.pulse = None
                with contextlib.suppress(RayError):
                    pulses: Any = ray.get(asked, timeout=LAST_PULSE_SECONDS)
                    for pulse in pulses:
                        self._hear(seat, pulse)

    def _release(self, seat: _Seat) -> None:
        self._seats.remove(seat)
        ray.kill(seat.actor)
        self._deadlines.end(id(seat))
        self._steps_of_the_lost += seat.last.steps if seat.last else 0

    def _checkpoint(self) -> None:
        saved = [seat.actor.checkpoint.remote() for seat in self._ready() if seat.calls]
        if saved:
            ray.wait(saved, num_returns=len(saved), timeout=GRACE_SECONDS)

    def _weights_digests(self) -> tuple[str, str] | None:
        for seat in self._ready():
            try:
                digests: Any = ray.get(seat.actor.weights_digests.remote(), timeout=10 * GRACE_SECONDS)
            except RayError:
                continue
            return str(digests[0]), str(digests[1])
        return None

    def progress(self) -> Progress:
        pulses = [(seat, seat.last) for seat in self._ready() if seat.last is not None]
        known = Counter(
            pulse.calls[concept.name][0]
            for seat, pulse in pulses
            for concept in seat.calls.values()
            if concept.name in pulse.calls
        )
        in_flight = sum(len(seat.calls) for seat in self._seats)
        ages = [pulse.checkpoint_age for _, pulse in pulses if pulse.checkpoint_age is not None]
        return Progress(
            total=self._total,
            done=self._done,
            failed=self._failed,
            doing=dict(known) | ({"starting": rest} if (rest := in_flight - known.total()) else {}),
            workers=dict(Counter(seat.phase for seat in self._seats)),
            steps=self._steps_of_the_lost + sum(pulse.steps for _, pulse in pulses),
            slots=sum(seat.slots for seat in self._ready()),
            occupied=sum(doing == "training" for _, pulse in pulses for doing, _ in pulse.calls.values()),
            restarts=self._retries.restarts,
            checkpoint_age=max(ages, default=None),
        )
