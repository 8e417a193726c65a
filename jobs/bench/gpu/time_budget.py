"""Measurements that end in time, one after the other: what one finds is written before the next begins."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.bench.gpu.gpu_table import markdown
from pipeline.models.device_memory import give_memory_back

WARM_UP, COUNTED = 3, 8
TO_END = 30.0  # seconds in which what is ended stops its workers


class TimeIsUpError(BaseException):
    """A measurement took too long. It is no Exception, so that neither a compiler nor a job takes it for a fault of its own."""


@dataclass(slots=True)
class Bench:
    """device: "cuda" or "cpu". ends: of the present model, on the clock of time.monotonic. output: the JSON file.
    report: what was measured so far. skipped: what was not, and why.
    """

    device: str
    dtype: str
    slots: Sequence[int]
    ends: float
    output: Path
    report: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def part(
        self, name: str, call: Callable[[], dict[Any, Any]], into: dict[Any, Any], most: float | None = None
    ) -> bool:
        """Adds the result of `call` to `into`, and writes the report. Returns whether there is one: a failure is reported, and the
        other parts go on. most: seconds that it may take, of those that are left.
        """
        began = time.monotonic()
        before = len(self.skipped)
        try:
            left = self.ends - began
            with _alarm(left if most is None else min(left, most)):
                into |= call()
        except TimeIsUpError:
            self.skipped.append(f"{name}: no time was left")
        except Exception as error:  # noqa: BLE001 - a lent machine should not be given back without the other figures
            said = (str(error).splitlines() or [""])[0]
            self.skipped.append(f"{name}: {type(error).__name__}: {said[:200]}")
        give_memory_back()
        self.write()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        return len(self.skipped) == before

    def write(self) -> None:
        """The JSON file and the table beside it."""
        report = self.report | {"skipped": self.skipped}
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        self.output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")

    def seconds_each(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, after a warm-up."""
        times = []
        for _ in range(WARM_UP + COUNTED):
            began = time.perf_counter()
            call()
            if self.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return float(np.median(times[WARM_UP:]))

    def peak_gib(self) -> float | None:
        """Most memory allocated in this part so far."""
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device == "cuda" else None


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises TimeIsUpError after so many seconds, wherever this thread is then. Python drops what is raised in a finaliser or a
    callback of the garbage collector: so it is raised again, until it ends the measurement.
    """
    if seconds <= 0:
        raise TimeIsUpError

    def ring(*_: object) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, TO_END)
    try:
        yield
    finally:
        with contextlib.suppress(TimeIsUpError):  # it may ring on this very line
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
