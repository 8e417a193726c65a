"""Reads a Parquet table of a run folder within limits, and writes one that is within them.

A run folder can be a stranger's, and a file of kilobytes may say that it holds gigabytes. Every table is read here, and nowhere
else.
"""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.store.damaged import DamagedFileError
from pipeline.store.parquet.parquet_pages import unpacked_bytes
from pipeline.store.storage import Storage

# A table has a few row groups a thousand concepts, and some twenty columns; that of a report has the manifest's columns as well.
MOST_GROUPS, MOST_COLUMNS, MOST_CHUNKS = 20_000, 1_100, 500_000
MOST_ROWS, FREE_ROWS = 5_000_000, 100_000  # FREE_ROWS: of a file of any size; above that, a row takes a byte
# Unpacked: the most of a small file, and of a large one as a multiple of its size. Pictures and vectors hardly pack at all;
# scores, of which most columns say the same in each row, pack to a tenth, and to less where words have no score.
FREE_BYTES, TIMES_ITS_SIZE = 128_000_000, 100
# Bytes. Above FREE_FOOTER, half of the file is none; read, a footer takes up to 250 times its size.
FREE_FOOTER, MOST_FOOTER = 300_000, 2_000_000
BATCH_ROWS, END = 1_000, 8
MAGIC = b"PAR1"


class TableError(ValueError):
    """Bytes that are no Parquet table, or one that is larger than tables of a run are. The message does not name the file."""


def stored_table(storage: Storage, path: str) -> pa.Table:
    """Raises DamagedFileError for what `table_of` does not read, and StorageError."""
    try:
        return table_of(storage.read_bytes(path))
    except TableError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from None


def table_of(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a file's bytes. columns: those wanted; None for all.

    Raises TableError for one that is broken, lacks a column, or is larger than tables of a run are.
    """
    try:
        _check(data)
        limits = {"thrift_container_size_limit": MOST_GROUPS}
        return pq.read_table(pa.BufferReader(data), columns=None if columns is None else list(columns), **limits)
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise TableError(str(error)[:200]) from None


def data_of(table: pa.Table, group_rows: int = 256) -> bytes:
    """The table as a file. group_rows: by default about one row group a concept, so that one concept's pictures can be read
    without the others'.
    """
    sink = pa.BufferOutputStream()
    # Inside maps and lists a reader has to count a dictionary's longest text for each of its values.
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    pq.write_table(table, sink, compression="zstd", row_group_size=group_rows, use_dictionary=flat)
    return bytes(sink.getvalue())


def rows_of(data: bytes, schema: pa.Schema, stated: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a file's bytes, with the columns of `schema`. stated: those that no row may lack. Raises TableError."""
    try:
        table = table_of(data).select(schema.names).cast(schema)
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise TableError(str(error)[:200]) from None
    if empty := [name for name in stated if table[name].null_count]:
        raise TableError(f"a row without {empty[0]}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _check(data: bytes) -> None:
    """Raises ValueError for more than the limits, having unpacked no more than they allow, and what pyarrow raises."""
    most = max(FREE_BYTES, TIMES_ITS_SIZE * len(data))
    size = int.from_bytes(data[-END : -len(MAGIC)], "little")
    if len(data) < len(MAGIC) + END or data[-len(MAGIC) :] != MAGIC or size > len(data):
        raise ValueError(f"{len(data):,} bytes that are no whole Parquet file")
    footer_limit = min(max(FREE_FOOTER, len(data) // 2), MOST_FOOTER)
    if size > footer_limit:
        raise ValueError(f"its footer has {size:,} bytes; at most {footer_limit:,} are read")
    with pq.ParquetFile(io.BytesIO(data), thrift_container_size_limit=MOST_GROUPS) as file:
        footer = file.metadata
    row_limit = min(max(FREE_ROWS, len(data)), MOST_ROWS)
    for what, count, limit in (
        ("columns", footer.num_columns, MOST_COLUMNS),
        ("row groups", footer.num_row_groups, MOST_GROUPS),
        ("pieces of columns", footer.num_columns * footer.num_row_groups, MOST_CHUNKS),
        ("rows", max(footer.num_rows, _rows(footer)), row_limit),
    ):
        if count > limit:
            raise ValueError(f"it has {count:,} {what}; at most {limit:,} are read")
    _check_texts(data, footer, most, unpacked_bytes(data, footer, most))


def _rows(footer: pq.FileMetaData) -> int:
    return sum(max(footer.row_group(number).num_rows, 0) for number in range(footer.num_row_groups))


def _check_texts(data: bytes, footer: pq.FileMetaData, most: int, unpacked: int) -> None:
    """Counts texts as often as they stand in the table: packed, one that repeats stands in a dictionary once."""
    leaves = [footer.schema.column(number) for number in range(footer.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and "." not in leaf.path]
    if len({leaf.path for leaf in leaves}) < len(leaves):
        raise ValueError("it has two columns of one name")
    if not texts:
        return
    # Read as a dictionary, a text takes memory once, and what it comes to is known before it is unpacked.
    file = pq.ParquetFile(io.BytesIO(data), read_dictionary=texts, thrift_container_size_limit=MOST_GROUPS)
    for batch in file.iter_batches(BATCH_ROWS, columns=texts):
        unpacked += sum(map(_bytes_of, batch.columns))
        if unpacked > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes")


def _bytes_of(texts: pa.Array) -> int:
    """Those that repeat as often as they do."""
    if not pa.types.is_dictionary(texts.type):
        return int(texts.nbytes)
    return pc.sum(pc.binary_length(texts.dictionary).take(texts.indices)).as_py() or 0
