"""The run folder's tables as Parquet parts: how many there are, where each lies, and how they are read and written.

<table>/part-<number>-of-<parts>.parquet
"""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageError, StorageNotFoundError

# Concepts a part: samples are megabytes each, embeddings and scores kilobytes, and no part should outgrow memory.
FEW, MANY = 16, 512
LAYOUT = "_layout.json"
MAGIC, READERS = b"PAR1", 32  # threads: a store is waited for, mostly
TABLES, MOST_PARTS = ("embeddings", "scores", "samples"), 99_999  # as many as a part's name can count
PART = re.compile(r"part-[0-9]{5}-of-([0-9]{5})\.parquet")


def create_layout(run: RunFolder, concepts: int) -> dict[str, int]:
    """Table -> number of parts. The first driver of a run fixes it; from then on it is kept, however the manifest grows.

    The number of samples' parts is a multiple of the others', so that a part of scores comes from whole parts of samples.
    """
    if not run.storage.exists(LAYOUT):
        large = max(1, math.ceil(concepts / MANY))
        parts = {"embeddings": large, "scores": large, "samples": large * max(1, math.ceil(concepts / large / FEW))}
        run.storage.create_exclusive(LAYOUT, json.dumps(parts).encode())
    try:
        return read_layout(run)
    except DamagedFileError:
        # Nothing was published yet, so any layout will do.
        run.storage.delete(LAYOUT)
        return create_layout(run, concepts)


def read_layout(run: RunFolder) -> dict[str, int]:
    """Table -> number of parts. Raises StorageNotFoundError for a folder in which no run was begun, and DamagedFileError
    for a damaged layout of a folder that has no parts, by whose names it could be told again.
    """
    try:
        found = run.read_json(LAYOUT)
        parts = {table: int(found[table]) for table in TABLES}
        if not all(1 <= count <= MOST_PARTS for count in parts.values()) or parts["samples"] % parts["scores"]:
            raise DamagedFileError(f"{LAYOUT} is damaged: {str(found)[:200]} cannot be the numbers of parts")
    except (KeyError, TypeError, ValueError, DamagedFileError) as error:
        parts = _layout_of_names(run)
        if len(parts) < len(TABLES):
            raise error if isinstance(error, DamagedFileError) else DamagedFileError(f"{LAYOUT} is damaged") from None
        say_damaged(LAYOUT, f"{error}; the names of the parts say the same")
    return parts


def _layout_of_names(run: RunFolder) -> dict[str, int]:
    """Each part's name says how many there are. Scores have as many as embeddings."""
    found = {}
    for table in ("embeddings", "samples"):
        named = (PART.fullmatch(name) for name in run.storage.names(table))
        if counts := {int(match[1]) for match in named if match}:
            found[table] = max(counts)
    return found | ({"scores": found["embeddings"]} if "embeddings" in found else {})


def part_path(table: str, number: int, parts: int) -> str:
    return f"{table}/part-{number:05d}-of-{parts:05d}.parquet"


def read_table(run: RunFolder, path: str, columns: list[str] | None = None) -> pa.Table | None:
    """One part, or None if it has not been written, or is damaged: what was in it is then made again."""
    try:
        return pq.read_table(pa.BufferReader(run.storage.read_bytes(path)), columns=columns)
    except StorageNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        say_damaged(path, str(error))
        return None


def is_whole(run: RunFolder, path: str) -> bool:
    """Whether a part that is there ends as Parquet files do: one that was cut does not."""
    return run.storage.read_end(path, len(MAGIC)) == MAGIC


def all_whole(run: RunFolder) -> bool:
    """Of all parts of the words' tables that are there."""
    paths = [f"{table}/{name}" for table in ("embeddings", "samples") for name in run.storage.names(table)]
    with ThreadPoolExecutor(READERS) as readers:
        return all(readers.map(lambda path: is_whole(run, path), paths))


def write_table(run: RunFolder, path: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    # One row group a concept or so: a reader of one concept's pictures then reads no other's.
    pq.write_table(table, sink, compression="zstd", row_group_size=256)
    run.storage.write_bytes(path, bytes(sink.getvalue()))


def read_parts(run: RunFolder, table: str, parts: int, schema: pa.Schema) -> pa.Table:
    """All parts of a table that have been written, as one table of `schema`, whichever version wrote them."""
    read = (read_table(run, part_path(table, number, parts)) for number in range(parts))
    return pa.concat_tables([schema.empty_table(), *(conformed(some, schema) for some in read if some is not None)])


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table that an older version wrote, with the columns that are new since as nulls."""
    for position, column in enumerate(schema):
        if column.name not in table.schema.names:
            table = table.add_column(min(position, table.num_columns), column, pa.nulls(len(table), column.type))
    return table.select(schema.names).cast(schema)
