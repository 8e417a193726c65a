"""What a job says: sentences for a person, or one JSON object a line for a program; and what the libraries log meanwhile."""

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from jobs.application.requests import Listener
from pipeline.store.locations import all_without_credentials, without_credentials
from pipeline.text_files import visible

LogFormat = Literal["text", "json"]
OURS = ("pipeline", "eval", "cluster", "jobs")  # each module logs under its own name, below one of these


@dataclass(frozen=True)
class Log(Listener):
    format: LogFormat = "text"

    @property
    def live(self) -> bool:
        return sys.stdout.isatty() and self.format == "text"

    def say(self, event: str, text: str, **fields: Any) -> None:
        self._write(event, text, fields, sys.stdout)

    def complain(self, event: str, text: str, **fields: Any) -> None:
        """The same on standard error."""
        self._write(event, f"wordmint: {text}", fields, sys.stderr)

    def _write(self, event: str, text: str, fields: dict[str, Any], to: TextIO) -> None:
        text, fields = without_credentials(text), all_without_credentials(fields)
        text = _as_json(event, text.strip(), fields) if self.format == "json" else visible(text, lines=True)
        print(_escaped(text, to), file=to, flush=True)


def show_log(format: LogFormat = "text", *, verbose: bool = False) -> None:
    """Has what our modules log written to standard error: warnings, or with `verbose` information too."""
    handler = _Handler()
    handler.setFormatter(_Json() if format == "json" else _Text("wordmint: %(message)s"))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if verbose else logging.WARNING)


class _Handler(logging.StreamHandler[TextIO]):
    """To standard error, whatever its encoding."""

    def format(self, record: logging.LogRecord) -> str:
        return _escaped(super().format(record), self.stream)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # A line of what is told cannot pass for one of another message.
        return visible(without_credentials(super().format(record)), lines=True).replace("\n", "\n  ")


class _Json(logging.Formatter):
    """One object a line, like the job's own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"level": record.levelname.lower(), "logger": record.name}
        if record.exc_info:
            fields["traceback"] = without_credentials(self.formatException(record.exc_info))
        return _as_json("log", without_credentials(record.getMessage()), fields)


def _as_json(event: str, message: str, fields: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "event": event, "message": message, **fields})  # in ASCII: no stream need escape it


def _escaped(text: str, to: TextIO) -> str:
    """The text with what the stream's encoding cannot hold spelled out: a terminal without UTF-8 ends no job."""
    encoding = getattr(to, "encoding", None) or "utf-8"  # a notebook's streams have none
    return text.encode(encoding, "backslashreplace").decode(encoding)
