"""Says now and then how far a phase of a command has come, if it lasts: "published 120 of 400 words, 34 s"."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from cluster.session import Session, ray_session
from jobs.application.progress import duration
from jobs.application.requests import Listener

FIRST_SECONDS, MOST_SECONDS = 5.0, 60.0


class Counts:
    """How far a phase has come. done, total: 0 before its first step."""

    def __init__(self) -> None:
        self.verb, self.things, self.done, self.total = "", "", 0, 0

    def of(self, verb: str, things: str) -> Callable[[int, int], None]:
        """What the work is to call with (done, total). verb, things: such as "published" and "words"."""

        def step(done: int, total: int) -> None:
            self.verb, self.things, self.done, self.total = verb, things, done, total

        return step


@contextmanager
def phase(events: Listener, what: str, first: float | None = None) -> Iterator[Counts]:
    """what: such as "publishing". first: seconds until the first line, FIRST_SECONDS by default; each wait is twice the last, up
    to a minute.
    """
    began, ended, counts = time.monotonic(), threading.Event(), Counts()

    def tell() -> None:
        wait = FIRST_SECONDS if first is None else first
        while not ended.wait(wait):
            seconds = time.monotonic() - began
            said = f"{what}, for {duration(seconds)} so far"
            if counts.total:
                said = f"{counts.verb} {counts.done:,} of {counts.total:,} {counts.things}, {duration(seconds)}"
            events.say("phase", said, phase=what, seconds=round(seconds, 1), done=counts.done, total=counts.total)
            wait = min(2 * wait, MOST_SECONDS)

    telling = threading.Thread(target=tell, name=what, daemon=True)
    telling.start()
    try:
        yield counts
    finally:
        ended.set()
        telling.join()


@contextmanager
def told_ray_session(address: str | None, events: Listener) -> Iterator[Session]:
    """A ray_session whose start is a phase: a local Ray takes seconds, and a distant cluster may take longer to answer."""
    with ExitStack() as stack:
        with phase(events, "waiting for Ray"):
            session = stack.enter_context(ray_session(address))
        yield session
