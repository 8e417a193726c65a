"""How long a run would take, from what was measured in its run folder, or from stated assumptions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.settings import InversionSettings

# docs/measured.md: the shipped model on a CPU core and Stable Diffusion 1.5's size on an H100 both take about 0.1 s for a step
# of four pictures. Loading a model, measuring slots and starting Ray take about a minute.
STEP_SECONDS, START_SECONDS = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """start_seconds: until the workers train. worker_seconds: one worker's, for a word, with its pictures. report_seconds: for
    publishing, scoring and reporting a word. workers: how many there were. measured: in this run folder, or else assumed.
    """

    start_seconds: float
    worker_seconds: float
    report_seconds: float
    workers: int
    measured: bool = True

    @property
    def source(self) -> str:
        """Where the figures are from, in words."""
        if self.measured:
            return f"{self.worker_seconds:.1f} s a word and worker, as measured in this run folder"
        return (
            f"{self.worker_seconds:.1f} s a word and worker, assumed: no word has been learned in this run folder yet, and a step "
            f"is taken to last {STEP_SECONDS} s"
        )

    def seconds(self, words: int, workers: int) -> float:
        """From the start to the report."""
        if not words:
            return 0.0
        return self.start_seconds + words * (self.worker_seconds / min(workers, words) + self.report_seconds)


def rate_of(made: Mapping[str, Any], settings: InversionSettings) -> Rate:
    """made: run.json, {} without a run."""
    try:
        return Rate(**made["measured"])
    except (KeyError, TypeError):
        return Rate(START_SECONDS, settings.steps * STEP_SECONDS, 0.0, 1, measured=False)


def measured(reached: Mapping[str, float], workers: int, words: int) -> Rate:
    """The rate of a run that learned `words`. reached: milestone -> seconds since the run began, as in run.json."""
    training, last = reached.get("training", reached["planned"]), reached["last_word"]
    return Rate(
        training,
        round((last - training) * min(workers, words) / words, 2),
        round((reached["reported"] - last) / words, 2),
        workers,
    )
