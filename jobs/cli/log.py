"""What a job says: sentences for a person, or one JSON object a line for a program."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from jobs.application.requests import Listener
from pipeline.store.locations import all_without_credentials, without_credentials

LogFormat = Literal["text", "json"]


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
        if self.format == "json":
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            text = json.dumps({"time": now, "event": event, "message": text.strip(), **fields}, ensure_ascii=False)
        print(text, file=to, flush=True)
