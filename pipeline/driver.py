"""The loop that keeps a run's workers busy: Ray actors, K calls in flight to each, one call a concept.

Pending actors are the demand that a cluster's autoscaler sees; there are never more of them than concepts left.
"""

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.records import Done, Failure, Task
from pipeline.worker import Worker, WorkerSettings

LIVES = 3  # a concept whose call broke off so many times is taken to be the cause
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Resources:
    """workers: at most so many actors. slots: concepts in training at once on each. cpus, gpus: of each actor."""

    workers: int
    slots: int
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of `total` concepts are done, failed and in flight."""

    total: int
    done: int
    failed: int
    running: int


class WorkersNeverStartedError(RuntimeError):
    """No worker could load the model; the message is the worker's own."""


@dataclass(slots=True)
class _Seat:
    """One actor and the calls in flight to it; `ready` is pending until its model is loaded."""

    actor: Any  # an ActorHandle; Ray types its methods as those of the class, which lack .remote
    ready: ray.ObjectRef | None
    calls: dict[ray.ObjectRef, Task] = field(default_factory=dict)


class Driver:
    """Runs every task to a Done or a Failure, handing each to `record` as it comes."""

    def __init__(
        self,
        settings: WorkerSettings,
        resources: Resources,
        record: Callable[[Task, Done | Failure], None],
        report: Callable[[Progress], None],
    ) -> None:
        self._settings, self._resources, self._record, self._report = settings, resources, record, report
        self._seats: list[_Seat] = []
        self._again: collections.deque[Task] = collections.deque()
        self._crashes: collections.Counter[str] = collections.Counter()
        self._total = self._done = self._failed = self._boots_lost = 0
        self._ever_ready = False

    def run(self, tasks: Iterator[Task], total: int) -> tuple[str, str] | None:
        """`total` is the number of tasks. Returns the digests of the weights before the first concept and after the last
        one, from a worker that lived to tell.

        Raises WorkersNeverStartedError when the first actors all die before their model is loaded.
        """
        self._total = total
        try:
            while self._left:
                self._grow()
                self._feed(tasks)
                self._collect()
                self._shrink()
                self._report(self._progress())
            return self._weights_digests()
        finally:
            for seat in self._seats:
                ray.kill(seat.actor)

    @property
    def _left(self) -> int:
        return self._total - self._done - self._failed

    def _progress(self) -> Progress:
        return Progress(self._total, self._done, self._failed, sum(len(seat.calls) for seat in self._seats))

    def _grow(self) -> None:
        resources = self._resources
        while len(self._seats) < min(resources.workers, self._left):
            remote: Any = ray.remote(Worker)  # Ray's own types know an actor's methods only as those of its class
            actor = remote.options(
                num_cpus=resources.cpus,
                num_gpus=resources.gpus,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=resources.slots + 1,
            ).remote(self._settings)
            self._seats.append(_Seat(actor, actor.ready.remote()))

    def _feed(self, tasks: Iterator[Task]) -> None:
        """Fills free slots, the emptiest worker first."""
        while open_seats := [s for s in self._seats if s.ready is None and len(s.calls) < self._resources.slots]:
            task = self._again.popleft() if self._again else next(tasks, None)
            if task is None:
                return
            seat = min(open_seats, key=lambda seat: len(seat.calls))
            seat.calls[seat.actor.invert.remote(task)] = task

    def _collect(self) -> None:
        flying = {ref: seat for seat in self._seats for ref in (*seat.calls, *([seat.ready] if seat.ready else []))}
        landed, _ = ray.wait(list(flying), num_returns=1, timeout=POLL_SECONDS)
        for ref in landed:
            seat = flying[ref]
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                # The actor lives on; only this call broke, perhaps because the store was out of reach for too long.
                if ref == seat.ready:
                    self._lose(seat, error)
                else:
                    self._retry(seat.calls.pop(ref), error)
                continue
            except RayError as error:
                # Whatever the kind of error, the actor is not trusted any more: it may even still be running.
                self._lose(seat, error)
                continue
            if ref == seat.ready:
                seat.ready, self._ever_ready = None, True
            else:
                self._settle(seat.calls.pop(ref), result)

    def _settle(self, task: Task, result: Done | Failure) -> None:
        self._record(task, result)
        self._done += isinstance(result, Done)
        self._failed += isinstance(result, Failure)

    def _lose(self, seat: _Seat, error: RayError) -> None:
        if seat not in self._seats:
            return
        self._seats.remove(seat)
        ray.kill(seat.actor)
        self._boots_lost += seat.ready is not None
        if not self._ever_ready and self._boots_lost >= LIVES:
            raise WorkersNeverStartedError(_last_line(error)) from error
        for task in seat.calls.values():
            self._retry(task, error)

    def _retry(self, task: Task, error: RayError) -> None:
        name = task.concept.name
        self._crashes[name] += 1
        if self._crashes[name] < LIVES:
            self._again.append(task)
        else:
            reason = f"broke off {LIVES} times, the last time with: {_last_line(error)}"
            self._settle(task, Failure(name, "worker", reason, LIVES))

    def _shrink(self) -> None:
        """Lets the node of a worker for which nothing is left go, while the last concepts finish elsewhere."""
        for seat in [seat for seat in self._seats if not seat.calls and len(self._seats) > max(self._left, 1)]:
            ray.kill(seat.actor)
            self._seats.remove(seat)

    def _weights_digests(self) -> tuple[str, str] | None:
        for seat in self._seats:
            try:
                digests: Any = ray.get(seat.actor.weights_digests.remote())
            except RayError:
                continue
            return str(digests[0]), str(digests[1])
        return None


def _last_line(error: RayError) -> str:
    """A remote error's text is a traceback; its last line is what a person wants."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
