"""A manifest's bytes as rows of cells: CSV, JSONL or Parquet, each with its own ways to be broken."""

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.inputs.manifest_parquet import opened_parquet, parquet_rows
from pipeline.inputs.manifest_problems import (
    MOST_CELLS,
    MOST_COLUMNS,
    MOST_PROBLEMS,
    MOST_ROWS,
    SHOWN,
    BrokenFileError,
    ManifestError,
    Problem,
    TooManyProblemsError,
    shortened,
)
from pipeline.text_files import decode_text, is_one_line

MAX_CELL = 1_000_000
GAPS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}  # pandas writes NaN where a value is missing
NAMED = 50  # columns in a message
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
SUFFIXES = {
    ".csv": "CSV", ".jsonl": "JSONL", ".ndjson": "JSONL", ".parquet": "Parquet", ".pq": "Parquet", ".tsv": "CSV",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """line: where the row begins, from 1; in Parquet files its number. cells: column -> what the file holds there."""

    line: int
    cells: dict[str, Any]


def read_rows(
    url: str,
    data: bytes,
    shown: str,
    columns: Sequence[str],
    required: Sequence[str],
    called: Mapping[str, str] | None = None,
) -> tuple[list[Row], list[Problem]]:
    """The rows with names of their own, and what is wrong with the others.

    columns, required: the names that mean something, and those that must be there. called: what some of them are called in
    this file. Raises ManifestError for a file of which nothing can be used, and TooManyProblemsError.
    """
    try:
        form = _format(url, data)
        called = called or {}
        expected = {called.get(column, column).lower() for column in columns}
        names: dict[str, None] = {}
        read = {
            "CSV": lambda: _csv_rows(data, names, expected),
            "JSONL": lambda: _jsonl_rows(data, names),
            "Parquet": lambda: _parquet_rows(data, names),
        }[form]
        rows: list[Row] = []
        problems: list[Problem] = []
        cells = 0
        for item in read():
            if isinstance(item, Row):
                rows.append(item)
                cells += len(item.cells)
            else:
                problems.append(item)
            if len(rows) > MOST_ROWS or cells > MOST_CELLS:
                raise BrokenFileError(
                    f"has over {MOST_ROWS:,} rows or {MOST_CELLS:,} cells; at most so many are read: divide it"
                )
            if len(problems) > MOST_PROBLEMS:
                raise TooManyProblemsError(shown, problems)
        if not rows and not problems:
            raise BrokenFileError("has no rows: only a header, or nothing" if form == "CSV" else "has no rows")
        if rows:
            _check_called(names, called)
            _check_names(_renamed(dict(names), called), columns, required)
            rows = [Row(row.line, _renamed(row.cells, called)) for row in rows] if called else rows
    except BrokenFileError as error:
        raise ManifestError(shown, (Problem(0, "", "", str(error)),)) from None
    return rows, problems


def _format(url: str, data: bytes) -> str:
    if not data.strip():
        raise BrokenFileError("is empty")
    # In a store and on a disk "?" is a plain sign; a web address ends before its query.
    web = url.lower().startswith(("http://", "https://"))
    suffix = PurePosixPath(re.split("[?#]", url, maxsplit=1)[0] if web else url).suffix.lower()
    if suffix not in SUFFIXES:
        raise BrokenFileError(f"the ending {suffix!r} is not one of {', '.join(SUFFIXES)}")
    if data.startswith(b"PAR1") != (SUFFIXES[suffix] == "Parquet"):
        raise BrokenFileError(f"is not what its ending {suffix} says: Parquet files, and no others, begin with PAR1")
    return SUFFIXES[suffix]


def _decoded(data: bytes) -> str:
    """The text, with every byte that is not UTF-8 as a lone surrogate, so that each row answers for its own."""
    try:
        return decode_text(data, errors="surrogateescape")
    except ValueError as error:
        raise BrokenFileError(str(error)) from None


def _csv_rows(data: bytes, names: dict[str, None], expected: Collection[str]) -> Iterator[Row | Problem]:
    text, separator, skipped = _without_sep_line(_decoded(data))
    separator = separator or _separator(text, expected)
    limit = csv.field_size_limit(len(text) + 1)  # cells are judged by the row that holds them
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
        header: list[str] | None = None
        header_line = 0
        while True:
            line = reader.line_num + 1 + skipped
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:
                    raise BrokenFileError(f"line {line}: the header cannot be read ({error})") from None
                # An open quotation mark swallows the rest of the file, so its beginning is what has to be named.
                yield Problem(
                    line, "", "", f"quotation marks do not match ({error}); inside a quoted cell, double them"
                )
                continue
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header, header_line = _header(cells, line), line
                names.update(dict.fromkeys(name for name in header if name))
            else:
                yield _csv_row(cells, header, header_line, line, separator)
    finally:
        csv.field_size_limit(limit)


def _csv_row(cells: list[str], header: list[str], header_line: int, line: int, separator: str) -> Row | Problem:
    while len(cells) > len(header) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(header):
        advice = (
            f"put cells with {SEPARATORS.get(separator, separator)} in quotation marks"
            if len(cells) > len(header)
            else "some are missing"
        )
        right = f"has {len(cells)} cells where the header has {len(header)}; {advice}"
        return Problem(line, "", shortened(separator.join(cells)), right)
    for position, (name, cell) in enumerate(zip(header, cells, strict=True), 1):
        if not name and cell.strip():
            raise BrokenFileError(
                f"line {header_line}: column {position} has no name (pandas: to_csv(..., index=False)), but line {line} has "
                f"{shortened(cell)} there"
            )
    return Row(line, {name: cell for name, cell in zip(header, cells, strict=True) if name})


def _without_sep_line(text: str) -> tuple[str, str, int]:
    """(the rest, the sign, 1) of a text with a first line such as sep=; by which spreadsheets tell theirs; else (all, "", 0)."""
    first = re.match(r'"?sep=(?P<sign>[^\r\n]{0,2000})(\r\n|\r|\n|$)', text, re.IGNORECASE)
    if first is None:
        return text, "", 0
    # The line may have been saved again as a row: in quotation marks, with empty cells behind it.
    sign = re.fullmatch(r"""\s*(\\t|\t|[^\w\s"'\\])"?[\s,;]*""", first["sign"])
    if sign is None:
        raise BrokenFileError(
            f"line 1: {shortened(first[0].strip())} must name one sign, as sep=; does; or remove the line"
        )
    return text[first.end() :], "\t" if sign[1] == "\\t" else sign[1], 1


def _separator(text: str, expected: Collection[str]) -> str:
    """The sign that makes the most known columns of the header; a comma where none does."""
    start = next((line for line in io.StringIO(text, newline="") if line.strip(' ,;\t"')), "")

    def known(sign: str) -> tuple[int, int]:
        cells = start.split(sign)
        return sum(_name(cell.strip().strip('"')).lower() in expected for cell in cells), len(cells)

    return max(SEPARATORS, key=known)


def _name(cell: str) -> str:
    """A column's name without the blanks and the byte-order marks around it."""
    return cell.strip().strip("\ufeff").strip()


def _header(cells: list[str], line: int) -> list[str]:
    """The names; "" for a column that has none. Spreadsheets write empty columns at the right end, which are left out."""
    header = [_name(cell) for cell in cells]
    while not header[-1]:
        header.pop()
    if fault := _fault_of_names(name for name in header if name):
        raise BrokenFileError(f"line {line}: {fault}")
    return header


def _fault_of_names(header: Iterable[str]) -> str:
    seen: set[str] = set()
    header = list(header)
    if len(header) > MOST_COLUMNS:
        return f"{len(header):,} columns; at most {MOST_COLUMNS:,} are read"
    for position, name in enumerate(header, 1):
        if not name:
            return f"column {position} has no name (pandas: to_csv(..., index=False))"
        if len(name) > SHOWN or not is_one_line(name):
            return f"{shortened(name)} cannot be a column's name: one line of UTF-8, at most {SHOWN} characters"
        if name in seen:
            return f"two columns are called {shortened(name)}"
        seen.add(name)
    return ""


def _jsonl_rows(data: bytes, names: dict[str, None]) -> Iterator[Row | Problem]:
    # Not splitlines(): it also splits at characters that may stand inside a JSON string.
    for line, text in enumerate(_decoded(data).split("\n"), 1):
        if not text.strip():
            continue
        try:
            cells = json.loads(text, object_pairs_hook=_no_pair_twice, parse_constant=GAPS.get)
        except RecursionError:
            yield Problem(line, "", shortened(text), "is nested too deeply")
            continue
        except ValueError as error:
            yield Problem(line, "", shortened(text), f"is not a JSON object ({error})")
            continue
        if not isinstance(cells, dict):
            yield Problem(line, "", shortened(text), 'is not an object such as {"concept": "cat", "images": "cat/"}')
            continue
        if fault := _fault_of_names(cells):
            yield Problem(line, "", "", fault)
            continue
        names.update(dict.fromkeys(cells))
        if len(names) > MOST_COLUMNS:
            raise BrokenFileError(f"line {line}: over {MOST_COLUMNS:,} columns; at most so many are read")
        yield Row(line, cells)


def _no_pair_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name occurs twice in it")
    return made


def _parquet_rows(data: bytes, names: dict[str, None]) -> Iterator[Row | Problem]:
    file = opened_parquet(data)
    if fault := _fault_of_names(file.schema_arrow.names):
        raise BrokenFileError(fault)
    names.update(dict.fromkeys(file.schema_arrow.names))
    for line, cells in enumerate(parquet_rows(file), 1):
        yield Row(line, cells)


def _renamed(cells: Mapping[str, Any], called: Mapping[str, str]) -> dict[str, Any]:
    """The cells under our names instead of the file's."""
    renamed = {column: cells[name] for column, name in called.items() if name in cells}
    return renamed | {name: value for name, value in cells.items() if name not in {*called, *called.values()}}


def _listed(names: Collection[str]) -> str:
    more = f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(sorted(names)[:NAMED]) + more


def _check_called(names: Collection[str], called: Mapping[str, str]) -> None:
    """Refuses a column that is not there, and one that would hide another."""
    here = _listed(names)
    for column, name in called.items():
        if name not in names:
            raise BrokenFileError(f"{column}={name}: there is no column {name!r}. Columns here: {here}")
        if column in names and column not in called.values():
            raise BrokenFileError(f"{column}={name}: there is a column {column!r} as well; rename it in the file")


def _check_names(names: Iterable[str], columns: Sequence[str], required: Sequence[str]) -> None:
    """Refuses missing columns, and names so near to a column's that it would silently be carried along instead."""
    present = set(names)
    complaints = []
    for column in columns:
        if column in present:
            continue
        others = sorted(present.difference(columns))
        near = {name.lower(): name for name in others}
        guess = difflib.get_close_matches(column, near, n=1, cutoff=0.6 if column in required else 0.85)
        if column in required:
            meant = f" (did you mean it by {shortened(near[guess[0]])}?)" if guess else ""
            complaints.append(f"the column {column!r} is missing{meant}")
        elif guess:
            complaints.append(
                f"the column {shortened(near[guess[0]])} is nearly {column!r}; rename it to that, or to something else"
            )
    if complaints:
        missing = [column for column in required if column not in present]
        other = f"; --column {missing[0]}=NAME reads one of another name" if missing else ""
        raise BrokenFileError(f"{'. '.join(complaints)}. Columns here: {_listed(present)}{other}")
