"""The run folder's tables are split into Parquet parts: how many, where each one is, and how to read and write them.

<table>/part-<number>-of-<parts>.parquet
"""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.parquet.parquet_tables import TableError, data_of, table_of
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageNotFoundError

# Concepts in a part. Samples take megabytes a concept, embeddings and scores kilobytes; a part must fit into memory.
FEW, MANY = 16, 512
LAYOUT = "_layout.json"
MAGIC, READERS = b"PAR1", 32  # threads: a store is waited for, mostly
TABLES, MOST_PARTS = ("embeddings", "scores", "samples"), 99_999  # as many as a part's name can count
CARRIED = b"wordmint.carried"  # marks a column of the manifest's own, in its field's metadata
PART = re.compile(r"part-[0-9]{5}-of-([0-9]{5})\.parquet")


def create_layout(run: RunFolder, concepts: int) -> dict[str, int]:
    """Table -> number of parts. The first driver of a run chooses it, and it stays, however the manifest grows.

    `samples` has a multiple of the other tables' parts, so that each part of `scores` depends on whole parts of `samples`.
    """
    if not run.storage.exists(LAYOUT):
        large = max(1, math.ceil(concepts / MANY))
        parts = {"embeddings": large, "scores": large, "samples": large * max(1, math.ceil(concepts / large / FEW))}
        run.storage.create_exclusive(LAYOUT, json.dumps(parts).encode())
    try:
        return read_layout(run)
    except DamagedFileError:
        # Nothing has been published, so any layout will do.
        run.storage.delete(LAYOUT)
        return create_layout(run, concepts)


def read_layout(run: RunFolder) -> dict[str, int]:
    """Table -> number of parts. A damaged layout is recovered from the parts' names.

    Raises StorageNotFoundError for a folder without a run, and DamagedFileError if the layout is damaged and there are no
    parts.
    """
    try:
        layout = run.read_json(LAYOUT)
        parts = {table: int(layout[table]) for table in TABLES}
        if not all(1 <= count <= MOST_PARTS for count in parts.values()) or parts["samples"] % parts["scores"]:
            raise DamagedFileError(f"{LAYOUT} is damaged: {str(layout)[:200]} cannot be the numbers of parts")
        if any(parts[table] not in counts for table, counts in _counts_of_names(run).items()):
            raise DamagedFileError(f"{LAYOUT} is damaged: {str(layout)[:200]} is not what the names of the parts say")
    except (KeyError, TypeError, ValueError, OverflowError, DamagedFileError) as error:
        parts = _layout_of_names(run)
        if len(parts) < len(TABLES):
            raise error if isinstance(error, DamagedFileError) else DamagedFileError(f"{LAYOUT} is damaged") from None
        say_damaged(LAYOUT, f"{error}; the names of the parts say the same")
    return parts


def _layout_of_names(run: RunFolder) -> dict[str, int]:
    """The layout that the parts' names tell. Scores have as many parts as embeddings."""
    layout = {table: max(counts) for table, counts in _counts_of_names(run).items()}
    return layout | ({"scores": layout["embeddings"]} if "embeddings" in layout else {})


def _counts_of_names(run: RunFolder) -> dict[str, set[int]]:
    """Table -> what its parts' names say of their number, strangers' too; without tables that have no part."""
    counts_of = {}
    for table in ("embeddings", "samples"):
        named = (PART.fullmatch(name) for name in run.storage.names(table))
        if counts := {int(match[1]) for match in named if match}:
            counts_of[table] = counts
    return counts_of


def part_path(table: str, number: int, parts: int) -> str:
    return f"{table}/part-{number:05d}-of-{parts:05d}.parquet"


def read_table(run: RunFolder, path: str, columns: list[str] | None = None) -> pa.Table | None:
    """One part; None if it is not written yet or is damaged, and then its rows are made again."""
    try:
        return table_of(run.storage.read_bytes(path), columns)
    except StorageNotFoundError:
        return None
    except TableError as error:
        say_damaged(path, str(error))
        return None


def is_whole(run: RunFolder, path: str) -> bool:
    """Whether the file ends with Parquet's magic bytes; a truncated one does not."""
    return run.storage.read_end(path, len(MAGIC)) == MAGIC


def all_whole(run: RunFolder) -> bool:
    """Of all parts of the words' tables that are there."""
    paths = [f"{table}/{name}" for table in ("embeddings", "samples") for name in run.storage.names(table)]
    with ThreadPoolExecutor(READERS) as readers:
        return all(readers.map(lambda path: is_whole(run, path), paths))


def write_table(run: RunFolder, path: str, table: pa.Table, group_rows: int = 256) -> None:
    run.storage.write_bytes(path, data_of(table, group_rows))


def read_parts(run: RunFolder, table: str, parts: int, schema: pa.Schema) -> pa.Table:
    """All parts of a table that have been written, as one table of `schema`, whichever version wrote them."""
    read = (read_rows(run, part_path(table, number, parts), schema) for number in range(parts))
    return pa.concat_tables([schema.empty_table(), *(some for some in read if some is not None)])


def read_rows(run: RunFolder, path: str, schema: pa.Schema) -> pa.Table | None:
    """As `read_table`; a table whose columns are of other types is damaged too."""
    table = read_table(run, path)
    try:
        if table is not None and "concept" not in table.column_names:
            raise ValueError("it has no column concept")
        return None if table is None else conformed(table, schema)
    except (pa.ArrowException, ValueError) as error:
        say_damaged(path, str(error))
        return None


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of an older version, with nulls in the columns that are new since; without the manifest's plain columns."""
    table = without_carried(table)
    for position, column in enumerate(schema):
        if column.name not in table.schema.names:
            table = table.add_column(min(position, table.num_columns), column, pa.nulls(len(table), column.type))
    return table.select(schema.names).cast(schema)


def without_carried(table: pa.Table) -> pa.Table:
    """The table without the manifest's plain columns (catalogue/carried.py)."""
    return table.select([field.name for field in table.schema if not is_carried(field)])


def is_carried(field: pa.Field) -> bool:
    return bool(field.metadata) and CARRIED in field.metadata
