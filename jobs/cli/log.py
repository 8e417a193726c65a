"""What a job says: sentences for a person, or one JSON object a line for a program."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Log:
    format: LogFormat = "text"

    def say(self, event: str, text: str, **fields: Any) -> None:
        """event: one word that a program can look for. text: what a person reads. fields: the figures in it."""
        self._write(event, text, fields, sys.stdout)

    def complain(self, event: str, text: str, **fields: Any) -> None:
        """The same on standard error."""
        self._write(event, f"wordmint: {text}", fields, sys.stderr)

    def _write(self, event: str, text: str, fields: dict[str, Any], to: TextIO) -> None:
        if self.format == "json":
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            text = json.dumps({"time": now, "event": event, "message": text.strip(), **fields}, ensure_ascii=False)
        print(text, file=to, flush=True)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
