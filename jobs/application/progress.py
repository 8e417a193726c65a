"""Progress of a run: one live line on a terminal, a line now and then in a log, and progress.json in the run folder."""

import shutil
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.application.requests import Listener
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageError

if TYPE_CHECKING:
    from pipeline.scheduling.driver import Progress  # it imports Ray, which takes a second

LOG_SECONDS, TERMINAL_SECONDS, FILE_SECONDS = 15.0, 0.5, 5.0
# The stages of a concept, in order.
DOING = ("starting", "images", "waiting", "training", "sampling", "committing")


class ProgressDisplay:
    """before: how many concepts of the manifest were done, and how many had failed, when this driver started.
    retired: words that are kept although no manifest lists them.
    """

    def __init__(self, run: RunFolder, events: Listener, before: tuple[int, int] = (0, 0), retired: int = 0) -> None:
        self._run, self._events, self._before, self._began = run, events, before, time.monotonic()
        self._retired = retired
        self._live = events.live
        self._shown = self._written = float("-inf")
        self._ended = -1

    def __call__(self, progress: "Progress") -> None:
        now = time.monotonic()
        ended = progress.done + progress.failed
        if self._live:
            if now - self._shown >= TERMINAL_SECONDS or ended != self._ended:
                line = self._line(progress, now)[: shutil.get_terminal_size().columns - 1]
                print(f"\r\033[K{line}", end="" if ended < progress.total else "\n", flush=True)
                self._shown = now
        elif now - self._shown >= LOG_SECONDS or ended == progress.total:
            self._events.say("progress", self._line(progress, now), **self._content(progress, now))
            self._shown = now
        if now - self._written >= FILE_SECONDS or ended == progress.total:
            self.write("running", progress)
            self._written = now
        self._ended = ended

    def write(self, state: str, progress: "Progress") -> None:
        """Writes progress.json. If the store cannot be reached, a warning is logged and the run goes on."""
        content = {"state": state, **self._content(progress, time.monotonic())}
        try:
            self._run.write_json("progress.json", content)
        except StorageError as error:
            self._events.complain("storage", f"progress.json could not be written: {error}")

    def _rate_and_eta(self, progress: "Progress", now: float) -> tuple[float, float | None]:
        """Concepts per minute, and seconds to go; None until the first concept has ended."""
        ended, elapsed = progress.done + progress.failed, now - self._began
        rate = ended / elapsed if elapsed else 0.0
        return rate * 60, (progress.total - ended) / rate if rate else None

    def _line(self, progress: "Progress", now: float) -> str:
        rate, eta = self._rate_and_eta(progress, now)
        parts = [f"{progress.done + progress.failed}/{progress.total} concepts"]
        parts += [f"{progress.doing[doing]} {doing}" for doing in DOING if progress.doing.get(doing)]
        parts += [f"{progress.failed} failed"] if progress.failed else []
        if placing := progress.workers.get("placing"):
            parts.append(f"{placing} workers wait for a node")
        if loading := progress.workers.get("loading"):
            parts.append(f"{loading} workers load the model")
        parts += [f"{rate:.1f} a minute"] if rate else []
        return ", ".join(parts + ([f"about {duration(eta)} to go"] if eta else []))

    def _content(self, progress: "Progress", now: float) -> dict[str, object]:
        rate, eta = self._rate_and_eta(progress, now)
        done, failed = self._before
        return {
            "total": progress.total + done + failed, "done": progress.done + done, "failed": progress.failed + failed,
            "retired": self._retired,
            "running": progress.running, "doing": progress.doing, "workers": progress.workers, "steps": progress.steps,
            "restarts": progress.restarts, "concepts_per_minute": round(rate, 3),
            "eta_seconds": None if eta is None else round(eta), "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
