"""Problems of a manifest as text, and the limits of its size.

The limits are on the unpacked content, whatever sizes the file declares.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.store.locations import without_credentials

SHOWN = 60
# A manifest of a million concepts takes some 100 MB; its problems are listed as far as anybody reads them.
MOST_BYTES, MOST_ROWS, MOST_COLUMNS, MOST_CELLS, LISTED = 500_000_000, 1_000_000, 1_000, 20_000_000, 1_000
MOST_PROBLEMS = 10_000  # of a manifest that is read on


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: line 0 is the file as a whole, column "" the row as a whole."""

    line: int
    column: str
    value: str
    right: str

    def __str__(self) -> str:
        place = ", ".join([f"line {self.line}"] * (self.line > 0) + [self.column] * bool(self.column))
        said = f"{self.value} {self.right}" if self.value else self.right
        return f"{place}: {said}" if place else said


class ManifestError(Exception):
    """A manifest that cannot be used; its text names every problem."""

    def __init__(self, url: str, problems: Sequence[Problem], good: int = 0) -> None:
        super().__init__(url, problems, good)
        self.url, self.problems, self.good = url, tuple(problems), good

    def __str__(self) -> str:
        if len(self.problems) == 1 and not self.problems[0].line:
            return f"{self.url}: {self.problems[0]}"
        bad = len({problem.line for problem in self.problems})
        head = f"{self.url}: {bad} bad row{'s' * (bad != 1)}, {self.good} good"
        more = [f"  and {len(self.problems) - LISTED:,} more"] if len(self.problems) > LISTED else []
        return "\n".join([head, *(f"  {problem}" for problem in self.problems[:LISTED]), *more])


class TooManyProblemsError(ManifestError):
    """One in which so much is wrong that it is not read to its end."""

    def __init__(self, url: str, problems: Sequence[Problem]) -> None:
        said = f"over {MOST_PROBLEMS:,} things are wrong in it; it was not read to its end, and these are the first"
        super().__init__(url, (Problem(0, "", "", said), *problems[:LISTED]))

    def __str__(self) -> str:
        return "\n".join([f"{self.url}: {self.problems[0]}", *(f"  {problem}" for problem in self.problems[1:])])


class BrokenFileError(Exception):
    """The file as a whole cannot be read."""


def shortened(value: object) -> str:
    """A value as it may stand in a message: quoted, in printable ASCII or letters, at most about 60 characters."""
    text = without_credentials(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
    visible = "".join(sign if sign.isprintable() else _escaped(sign) for sign in text[:SHOWN])
    return f'"{visible}"' + (f"... ({len(text):,} characters)" if len(text) > SHOWN else "")


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte that was not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape", "surrogatepass").decode()
