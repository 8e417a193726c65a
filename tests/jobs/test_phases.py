"""A phase that lasts says so now and then, and one that does not is silent."""

import threading
from typing import Any

import pytest

from jobs.application.phases import phase
from jobs.application.requests import Listener


class Heard(Listener):
    def __init__(self, enough: int) -> None:
        self.lines: list[str] = []
        self.enough, self.done = enough, threading.Event()

    def say(self, event: str, text: str, **fields: Any) -> None:
        assert (event, fields["phase"]) == ("phase", "scoring 3 words")
        self.lines.append(text)
        if len(self.lines) >= self.enough:
            self.done.set()


def test_a_long_phase_is_told_while_it_lasts_and_no_longer() -> None:
    """Catches ten silent minutes, after which somebody stops a run that was well."""
    heard = Heard(3)
    with phase(heard, "scoring 3 words", first=0.01):
        assert heard.done.wait(60)
    count = len(heard.lines)
    assert all(line.startswith("scoring 3 words, for ") for line in heard.lines)
    assert not any(thread.name == "scoring 3 words" for thread in threading.enumerate())
    assert len(heard.lines) == count


def test_a_short_phase_says_nothing_and_one_that_fails_stops_telling() -> None:
    heard = Heard(1)
    with pytest.raises(KeyError), phase(heard, "scoring 3 words"):
        raise KeyError
    assert heard.lines == []
    assert not any(thread.name == "scoring 3 words" for thread in threading.enumerate())
