"""DVAR and our own criterion, worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.early_stopping import (
    VALIDATION_IMAGES,
    WINDOW,
    has_converged,
    has_settled,
    is_look,
    look_every,
    window_of,
)

# The mean of all four is 5, their variance (25 + 25 + 1 + 1) / 4 = 13; that of the last two is 1.
LOSSES = (10.0, 0.0, 4.0, 6.0)


def test_training_stops_when_the_last_losses_vary_little_beside_all_of_them() -> None:
    assert has_converged(LOSSES, window=2, threshold=1 / 13 + 1e-9)
    assert not has_converged(LOSSES, window=2, threshold=1 / 13 - 1e-9)


def test_training_does_not_stop_before_the_window_has_filled() -> None:
    """Catches the loss of a word to a first stretch that happens to be calm: nothing is known yet of "all"."""
    for filled in range(len(LOSSES) + 1):
        assert not has_converged(LOSSES[:filled], window=len(LOSSES), threshold=math.inf)
    assert has_converged((*LOSSES, 5.0), window=len(LOSSES), threshold=math.inf)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.7, 1e-30])
def test_a_loss_that_never_moved_has_not_converged(value: float) -> None:
    """Catches a division of 0 by 0, whose outcome would stop or crash a concept that has learned nothing."""
    assert not has_converged([value] * 100, window=10)


def test_a_loss_that_is_no_number_has_not_converged() -> None:
    assert not has_converged([1.0, 2.0, math.nan, 1.0], window=2)


def test_the_published_window_is_counted_in_steps() -> None:
    """Catches a stop many times too late, were the window of 310 steps taken for 310 looks."""
    for batch_size in (1, 4, 8, 1024):
        every = look_every(batch_size)
        assert abs(window_of(every) * every - WINDOW) < max(every, 2)


@given(st.integers(1, 1024))
def test_looking_takes_less_than_a_twentieth_of_the_time(batch_size: int) -> None:
    """Catches a fixed interval: at a batch of one, eight pictures every ten steps were a third of the time."""
    assert VALIDATION_IMAGES / (2 * batch_size * look_every(batch_size)) < 0.05


def test_a_loss_has_settled_when_the_last_doubling_of_the_steps_brought_next_to_nothing() -> None:
    """Of a fall of 1.0 the last look brought 0.04, or 0.06."""
    assert has_settled([2.0, 1.5, 1.2, 1.1, 1.04, 1.0], tolerance=0.05)
    assert not has_settled([2.0, 1.5, 1.2, 1.1, 1.06, 1.0], tolerance=0.05)


def test_the_rule_looks_after_six_steps_and_after_every_doubling_of_them() -> None:
    """Catches a first look too late for a word that is best after a few steps, and looks that no rule asked for."""
    assert [step for step in range(1, 400) if is_look(step, "settled", 4)] == [6, 12, 24, 48, 96, 192, 384]
    assert [step for step in range(1, 60) if is_look(step, "dvar", 4)] == [24, 48]
    assert not any(is_look(step, "off", 4) for step in range(1, 60))


def test_a_loss_that_rises_again_has_settled() -> None:
    """Catches a word that is trained to the end of its budget while it gets worse."""
    assert has_settled([2.0, 1.5, 1.0, 0.9, 0.95, 1.0, 1.1])


@pytest.mark.parametrize(
    "loss", [[1.0] * 9, [1.0, 1.1, 1.2, 1.3, 1.4], [1.0, 0.5, 0.5], [1.0, 0.5, math.nan, 0.5, 0.5], []]
)
def test_a_loss_that_never_fell_or_was_hardly_looked_at_has_not_settled(loss: list[float]) -> None:
    """Catches the loss of a word that had no time, or no rate, to learn anything yet."""
    assert not has_settled(loss)


@given(st.lists(st.floats(0.01, 10), min_size=4, max_size=40), st.floats(0.1, 100), st.floats(0, 5))
def test_settling_knows_no_unit(losses: list[float], scale: float, shift: float) -> None:
    """Catches a threshold that fits the losses of one model: whatever their scale and their floor, the answer is the same."""
    fall = losses[0] - min(losses)
    before = min(losses[:-1]) - losses[-1]
    if fall > 1e-3 and abs(before - 0.05 * fall) > 1e-6:
        assert has_settled(losses) == has_settled([scale * loss + shift for loss in losses])
