"""The run folder's tables as Parquet parts: how many there are, where each lies, and how they are read and written.

<table>/part-<number>-of-<parts>.parquet
"""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageNotFoundError

# Concepts a part: samples are megabytes each, embeddings and scores kilobytes, and no part should outgrow memory.
FEW, MANY = 16, 512
LAYOUT = "_layout.json"


def create_layout(run: RunFolder, concepts: int) -> dict[str, int]:
    """Table -> number of parts. The first driver of a run fixes it; from then on it is kept, however the manifest grows.

    The number of samples' parts is a multiple of the others', so that a part of scores comes from whole parts of samples.
    """
    if not run.storage.exists(LAYOUT):
        large = max(1, math.ceil(concepts / MANY))
        parts = {"embeddings": large, "scores": large, "samples": large * max(1, math.ceil(concepts / large / FEW))}
        run.storage.create_exclusive(LAYOUT, json.dumps(parts).encode())
    return read_layout(run)


def read_layout(run: RunFolder) -> dict[str, int]:
    """Table -> number of parts. Raises StorageNotFoundError for a folder in which no run was begun."""
    return {table: int(count) for table, count in run.read_json(LAYOUT).items()}


def part_path(table: str, number: int, parts: int) -> str:
    return f"{table}/part-{number:05d}-of-{parts:05d}.parquet"


def read_table(run: RunFolder, path: str, columns: list[str] | None = None) -> pa.Table | None:
    """One part, or None if it has not been written."""
    try:
        return pq.read_table(pa.BufferReader(run.storage.read_bytes(path)), columns=columns)
    except StorageNotFoundError:
        return None


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
