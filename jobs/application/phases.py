"""Says now and then that a phase of a command goes on, if it lasts: publishing, drawing and scoring, reporting."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.application.progress import duration
from jobs.application.requests import Listener

FIRST_SECONDS, MOST_SECONDS = 5.0, 60.0


@contextmanager
def phase(events: Listener, what: str, first: float = FIRST_SECONDS) -> Iterator[None]:
    """what: such as "publishing 12 words". first: seconds until the first line; each wait is twice the last, up to a minute."""
    began, ended = time.monotonic(), threading.Event()

    def tell() -> None:
        wait = first
        while not ended.wait(wait):
            seconds = time.monotonic() - began
            events.say("phase", f"{what}, for {duration(seconds)} so far", phase=what, seconds=round(seconds, 1))
            wait = min(2 * wait, MOST_SECONDS)

    telling = threading.Thread(target=tell, name=what, daemon=True)
    telling.start()
    try:
        yield
    finally:
        ended.set()
        telling.join()
