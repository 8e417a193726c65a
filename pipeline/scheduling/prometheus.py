"""A run's metrics on Ray's Prometheus port, named `ray_wordmint_...`. None is tagged by concept."""

import time

from ray.util.metrics import Counter, Gauge

from pipeline.records import Event
from pipeline.scheduling.driver import Progress

GAUGES = {
    "wordmint_concepts_total": "concepts this driver has to do",
    "wordmint_concepts_done": "of these, done",
    "wordmint_concepts_failed": "of these, failed",
    "wordmint_concepts_running": "of these, in flight",
    "wordmint_workers": "workers, by phase: placing, loading, ready",
    "wordmint_slots": "slots of all ready workers",
    "wordmint_slots_occupied": "slots with a concept in training",
    "wordmint_checkpoint_age_seconds": "age of the oldest step checkpoint among the workers in training",
}
COUNTERS = {
    "wordmint_steps": "optimiser steps, of all concepts together",
    "wordmint_restarts": "calls that broke off and were tried again",
}
EVENTS = "wordmint_events"
EVERY_SECONDS = 1.0


class RunMetrics:
    """Sets the metrics to each Progress it is called with."""

    def __init__(self) -> None:
        tags = {"wordmint_workers": ("phase",)}
        self._gauges = {name: Gauge(name, said, tag_keys=tags.get(name, ())) for name, said in GAUGES.items()}
        self._counters = {name: Counter(name, said) for name, said in COUNTERS.items()}
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._events = Counter(EVENTS, "events of the run, by kind", tag_keys=("kind",))
        self._set = float("-inf")

    def count(self, event: Event) -> None:
        """Counts it by kind. Not by concept: that would be thousands of series."""
        self._events.inc(1, {"kind": event.kind})

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._set < EVERY_SECONDS and progress.done + progress.failed < progress.total:
            return
        self._set = now
        for name, value in {
            "wordmint_concepts_total": progress.total,
            "wordmint_concepts_done": progress.done,
            "wordmint_concepts_failed": progress.failed,
            "wordmint_concepts_running": progress.running,
            "wordmint_slots": progress.slots,
            "wordmint_slots_occupied": progress.occupied,
            "wordmint_checkpoint_age_seconds": progress.checkpoint_age or 0.0,
        }.items():
            self._gauges[name].set(value)
        for phase in ("placing", "loading", "ready"):
            self._gauges["wordmint_workers"].set(progress.workers.get(phase, 0), {"phase": phase})
        for name, value in {"wordmint_steps": progress.steps, "wordmint_restarts": progress.restarts}.items():
            # The steps of a lost worker since its last pulse are missing, so the sum may fall a little.
            if (more := value - self._counted[name]) > 0:
                self._counters[name].inc(more)
                self._counted[name] = value
