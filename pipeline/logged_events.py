"""Events of modules that know no run: they are log records, which a run listens to.

So a damaged file, or a store that does not answer, is a line in the log even where no run listens.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pipeline.records import Event, EventKind


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def log_event(logger: logging.Logger, kind: EventKind, cause: str, action: str) -> None:
    """Logs a warning that carries the event. cause, action: without credentials."""
    event = Event(now(), kind, cause, action)
    logger.warning("%s", event.sentence, extra={"event": event})


@contextmanager
def listening(keep: Callable[[Event], None]) -> Iterator[None]:
    """Calls `keep` with each event that `pipeline` logs in this process, on the thread that logs it."""
    logger, handler = logging.getLogger("pipeline"), _Handler(keep)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, keep: Callable[[Event], None]) -> None:
        super().__init__()
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            self._keep(event)
