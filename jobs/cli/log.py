"""A job's output, as text or as one JSON object a line, and the handlers for what the libraries log."""

import argparse
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
        """Like `say`, but to standard error."""
        self._write(event, f"wordmint: {text}", fields, sys.stderr)

    def _write(self, event: str, text: str, fields: dict[str, Any], to: TextIO) -> None:
        text, fields = without_credentials(text), all_without_credentials(fields)
        text = text.replace("\nwordmint:", "\n  wordmint:")  # a later line must not pass for a message of its own
        text = _as_json(event, text.strip(), fields) if self.format == "json" else visible(text, lines=True)
        print(_escaped(text, to), file=to, flush=True)


def open_log(arguments: argparse.Namespace) -> Log:
    """The job's output, with the libraries' log beside it, as the options of `arguments.add_log` say."""
    show_log(arguments.log_format, verbose=arguments.verbose)
    return Log(arguments.log_format)


def show_log(format: LogFormat = "text", *, verbose: bool = False) -> None:
    """Sends our modules' log records to standard error: warnings and above, with `verbose` also information."""
    handler = _Handler()
    handler.setFormatter(_Json() if format == "json" else _Text("wordmint: %(message)s"))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if verbose else logging.WARNING)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error; characters that its encoding lacks are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return _escaped(super().format(record), self.stream)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # Later lines of a message are indented, so that none can pass for a message of its own.
        return visible(without_credentials(super().format(record)), lines=True).replace("\n", "\n  ")


class _Json(logging.Formatter):
    """One JSON object a line, like the job's own output."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"level": record.levelname.lower(), "logger": record.name}
        if record.exc_info:
            fields["traceback"] = without_credentials(self.formatException(record.exc_info))
        return _as_json("log", without_credentials(record.getMessage()), fields)


def _as_json(event: str, message: str, fields: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "event": event, "message": message, **fields})  # ASCII, so any stream can hold it


def _escaped(text: str, to: TextIO) -> str:
    """The text with characters that the stream's encoding lacks escaped, so that a terminal without UTF-8 ends no job."""
    encoding = getattr(to, "encoding", None) or "utf-8"  # a notebook's streams have none
    return text.encode(encoding, "backslashreplace").decode(encoding)
