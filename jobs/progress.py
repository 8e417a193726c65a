"""What a person sees while a run goes on: one live line on a terminal, a line now and then in a log, and progress.json."""

import sys
import time
from datetime import UTC, datetime

from pipeline.driver import Progress
from pipeline.run_folder import RunFolder

LOG_SECONDS, TERMINAL_SECONDS, FILE_SECONDS = 15.0, 0.5, 5.0


class ProgressDisplay:
    def __init__(self, run: RunFolder) -> None:
        self._run, self._began = run, time.monotonic()
        self._live = sys.stdout.isatty()
        self._shown = self._written = float("-inf")
        self._settled = -1

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        settled = progress.done + progress.failed
        wait = TERMINAL_SECONDS if self._live else LOG_SECONDS
        if now - self._shown >= wait or settled != self._settled:
            print(
                ("\r\033[K" if self._live else "") + self._line(progress, now),
                end="" if self._live else "\n",
                flush=True,
            )
            self._shown = now
        if now - self._written >= FILE_SECONDS or settled == progress.total:
            self._run.write_json("progress.json", self._content(progress, now))
            self._written = now
        self._settled = settled
        if self._live and settled == progress.total:
            print()

    def _rate_and_eta(self, progress: Progress, now: float) -> tuple[float, float | None]:
        """Concepts a minute, and seconds to go, None before the first has ended."""
        settled, elapsed = progress.done + progress.failed, now - self._began
        rate = settled / elapsed if elapsed else 0.0
        return rate * 60, (progress.total - settled) / rate if rate else None

    def _line(self, progress: Progress, now: float) -> str:
        rate, eta = self._rate_and_eta(progress, now)
        text = f"{progress.done + progress.failed}/{progress.total} concepts, {progress.running} in training"
        text += f", {progress.failed} failed" if progress.failed else ""
        text += f", {rate:.1f} a minute" if rate else ""
        return text + (f", about {_duration(eta)} to go" if eta else "")

    def _content(self, progress: Progress, now: float) -> dict[str, object]:
        rate, eta = self._rate_and_eta(progress, now)
        return {
            "total": progress.total, "done": progress.done, "failed": progress.failed, "running": progress.running,
            "concepts_per_minute": round(rate, 3), "eta_seconds": None if eta is None else round(eta),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
