"""What happened during a run, as it happens: a line in the log at once, and rows of `events/` in the run folder.

Each driver rewrites its own file every few seconds. Two drivers cannot lose or double each other's rows, and a killed driver
loses a few seconds of them.
"""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, get_args

import pyarrow as pa

from pipeline.logged_events import listening
from pipeline.records import Event, EventKind
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.locations import without_credentials
from pipeline.store.parts import read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageError, StorageNotFoundError

EVENTS = pa.schema([
    ("time", pa.string()), ("kind", pa.string()), ("cause", pa.string()), ("action", pa.string()), ("worker", pa.string()),
    ("node", pa.string()), ("concept", pa.string()), ("seconds", pa.float64()), ("output", pa.string()),
])  # fmt: skip
FOLDER = "events"
FLUSH_SECONDS = 5.0
ROWS = 10_000  # a file
_log = logging.getLogger(__name__)


class EventLog:
    """The events of one driver.

    counts: of what went wrong, by kind. phases: the seconds of the slowest worker. listeners: called with each event.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._begin_file()
        self._written = 0
        self._flushed = time.monotonic()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.phases: dict[str, float] = {}
        self.listeners: list[Callable[[Event], None]] = []

    def _begin_file(self) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self._rows: list[Event] = []
        self._path = f"{FOLDER}/{stamp}-{uuid.uuid4().hex[:8]}.parquet"

    def record(self, event: Event) -> None:
        """Logs the event at once, and keeps it, both without credentials."""
        event = self._clean(event)
        (_log.info if event.kind == "phase" else _log.warning)("%s", event.sentence)
        self.keep(event)

    def _clean(self, event: Event) -> Event:
        options = self._run.storage.options
        return replace(
            event,
            cause=without_credentials(event.cause, options),
            action=without_credentials(event.action, options),
            output=without_credentials(event.output, options),
        )

    def keep(self, event: Event) -> None:
        """For the next flush: an event that has been logged."""
        event = self._clean(event)
        with self._lock:
            if event.kind == "phase":
                self.phases[event.cause] = max(self.phases.get(event.cause, 0.0), round(event.seconds or 0.0, 1))
            else:
                self.counts[event.kind] += 1
            self._rows.append(event)
        for listener in self.listeners:
            listener(event)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keeps what `pipeline` logs as an event meanwhile, and flushes at the end."""
        try:
            with listening(self.keep):
                yield
        finally:
            self.flush()

    def flush(self, *, at_once: bool = True) -> None:
        """Writes new rows; without `at_once` only if the last flush was FLUSH_SECONDS ago."""
        if not at_once and time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        with self._lock:
            rows = tuple(self._rows)
        self._flushed = time.monotonic()
        if len(rows) == self._written:
            return
        try:
            write_table(self._run, self._path, pa.Table.from_pylist([asdict(event) for event in rows], EVENTS))
        except StorageError as error:
            _log.warning("the run's events could not be written, and are tried again: %s", error)
            return
        self._written = len(rows)
        if len(rows) >= ROWS:
            self._begin_file()
            self._written = 0


def read_events(run: RunFolder) -> list[Event]:
    """The events of all drivers, by time. A damaged file is named in the log and left out."""
    events: list[Event] = []
    for name in run.storage.names(FOLDER):
        path = f"{FOLDER}/{name}"
        try:
            table = read_table(run, path)
            rows = [] if table is None else table.select(EVENTS.names).cast(EVENTS).to_pylist()
        except (DamagedFileError, StorageNotFoundError, pa.ArrowException, KeyError) as error:
            say_damaged(path, str(error))
            continue
        events += [Event(**row) for row in rows if row["kind"] in get_args(EventKind) and None not in _texts(row)]
    return sorted(events, key=lambda event: event.time)


def _texts(row: Mapping[str, Any]) -> list[Any]:
    """All that a row says but for the seconds, which only phases have."""
    return [value for name, value in row.items() if name != "seconds"]
