"""The learning rate over a word's budget. It is a pure function of the step, so that an interrupted word resumes correctly."""

import math

from pipeline.settings import InversionSettings


def rate_at(step: int, settings: InversionSettings) -> float:
    """The rate of the step that follows `step` steps: rising over the warm-up, then constant, or falling to 0 at the budget's end.

    "linear" falls in a straight line, "cosine" along half a cosine (Loshchilov and Hutter 2017, without restarts).

    >>> settings = InversionSettings(steps=100, learning_rate=1.0, warmup_steps=20, schedule="linear")
    >>> [rate_at(step, settings) for step in (0, 9, 20, 60)]
    [0.05, 0.5, 1.0, 0.5]
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    gone = (step - settings.warmup_steps) / max(
        settings.steps - settings.warmup_steps, 1
    )  # a budget of none has a rate too
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - gone)
    if settings.schedule == "cosine":
        return settings.learning_rate * (1 + math.cos(math.pi * gone)) / 2
    return settings.learning_rate
