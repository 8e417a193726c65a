"""The manifest's own columns as plain columns of a table, with the types they had, so that pandas can group by them.

A word carries them as text, in the column `carried` of embeddings/. A plain column is marked as the manifest's in its field's
metadata: our own readers leave it out, whatever it is called.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.lease import lease
from pipeline.store.parts import CARRIED, is_carried, part_path, read_table, without_carried, write_table
from pipeline.store.run_folder import RunFolder

GAPS = ("", "nan", "<na>")  # as pandas writes them, in lower case
LEASES = {"embeddings": "publish", "scores": "scores"}
# Bytes a row: a concept has dozens of rows in scores/, each with its columns, and nobody groups by long texts.
WIDEST, NUMBER = 500, 8
GROUP_ROWS = 8192  # many columns in small groups make a footer that is larger than what it describes


def carried_table(carried: Mapping[str, Mapping[str, str]], types: Mapping[str, str]) -> pa.Table:
    """One row a concept: `concept`, then each column by name, null where its cell is empty.

    carried: concept -> column -> text. types: column -> one of TYPES; any other is text, and so is a column with a value that
    does not fit its type, as in a row of another manifest.
    """
    columns = sorted({name for each in carried.values() for name in each})
    made = {name: _typed([each.get(name) for each in carried.values()], types.get(name, "text")) for name in columns}
    fields = [pa.field(name, made[name].type, metadata={CARRIED: b""}) for name in columns]
    names = pa.array(list(carried), pa.string())
    return pa.table([names, *made.values()], pa.schema([pa.field("concept", pa.string()), *fields]))


def narrow(carried: pa.Table) -> pa.Table:
    """The narrowest columns, up to WIDEST bytes a row."""
    widths = {name: _width(carried[name]) for name in carried.column_names[1:]}
    left, kept = WIDEST, []
    for name in sorted(widths, key=lambda name: (widths[name], name)):
        left -= widths[name]
        if left >= 0:
            kept.append(name)
    return carried.select(["concept", *sorted(kept)])


def with_carried(table: pa.Table, carried: pa.Table) -> pa.Table:
    """The table with these plain columns instead of those that it had. One that is called like another column of the table is
    `manifest_<name>`.
    """
    table = without_carried(table)
    rows = pc.index_in(table["concept"], carried["concept"])
    for field in list(carried.schema)[1:]:
        name = field.name
        while name in table.column_names:
            name = f"manifest_{name}"
        table = table.append_column(field.with_name(name), carried[field.name].take(rows))
    return table


def refresh_carried(run: RunFolder, carried: pa.Table, parts: Mapping[str, int]) -> None:
    """Brings the plain columns of embeddings/ and scores/ up to date. samples/ has none: its pictures are not written again
    because a column has changed.
    """
    carried = narrow(carried)
    for table, name in LEASES.items():
        paths = [part_path(table, number, parts[table]) for number in range(parts[table])]
        stale = [path for path in paths if _refreshed(run, path, carried) is not None]
        if not stale:
            continue
        with lease(run.storage, name) as storage:
            held = RunFolder(storage)
            for path in stale:
                if (rows := _refreshed(held, path, carried)) is not None:  # read again: another may have changed it
                    write_table(held, path, rows, GROUP_ROWS)


def _refreshed(run: RunFolder, path: str, carried: pa.Table) -> pa.Table | None:
    """None where there is nothing to write."""
    rows = read_table(run, path)
    if rows is None or "concept" not in rows.column_names:
        return None
    fresh = with_carried(rows, carried)
    return None if _plain(fresh).equals(_plain(rows)) else fresh


def types_of(several: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The type of each column over several manifests.

    >>> types_of([{"price": "integer", "shop": "text"}, {"price": "number", "shop": "integer"}])
    {'price': 'number', 'shop': 'text'}
    """
    seen: dict[str, set[str]] = {}
    for types in several:
        for name, kind in types.items():
            seen.setdefault(name, set()).add(kind)
    return {name: common_type(kinds) for name, kinds in seen.items()}


def common_type(types: Collection[str]) -> str:
    """Of values of these types: "number" where some are whole, "text" where they do not agree."""
    if len(types) == 1:
        return next(iter(types))
    return "number" if set(types) == {"integer", "number"} else "text"


def _plain(table: pa.Table) -> pa.Table:
    return table.select([field.name for field in table.schema if is_carried(field)])


def _width(column: pa.ChunkedArray) -> int:
    if not pa.types.is_string(column.type):
        return NUMBER
    return max(NUMBER, pc.max(pc.binary_length(column)).as_py() or 0)


def _typed(values: Sequence[str | None], kind: str) -> pa.Array:
    if kind in TYPES:
        parse, type_ = TYPES[kind]
        try:
            read = [None if value is None or value.strip().lower() in GAPS else parse(value) for value in values]
            return pa.array(read, type_)
        except (ValueError, OverflowError, pa.ArrowException):
            pass
    return pa.array([value or None for value in values], pa.string())


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _local(text: str) -> datetime:
    if (time := datetime.fromisoformat(text)).tzinfo:
        raise ValueError(text)
    return time


def _zoned(text: str) -> datetime:
    if not (time := datetime.fromisoformat(text)).tzinfo:
        raise ValueError(text)
    return time


TYPES: dict[str, tuple[Callable[[str], Any], pa.DataType]] = {
    "integer": (int, pa.int64()), "number": (float, pa.float64()), "boolean": (_truth, pa.bool_()),
    "date": (date.fromisoformat, pa.date32()), "time": (_local, pa.timestamp("us")),
    "time with zone": (_zoned, pa.timestamp("us", "UTC")),
}  # fmt: skip
