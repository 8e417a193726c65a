"""Reads Parquet manifests within limits, because a small Parquet file may unpack to gigabytes."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from pipeline.inputs.manifest_problems import MOST_BYTES, MOST_CELLS, MOST_COLUMNS, MOST_ROWS, BrokenFileError

MOST_GROUPS, BATCH_ROWS = 10_000, 1_000
# UnicodeDecodeError: of a column's name or a cell; KeyError: a name twice in a map.
BROKEN = (pyarrow.ArrowException, OSError, UnicodeDecodeError, KeyError)
TRIAL_SECONDS = 120  # the largest that is read takes a few
TRIAL = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.inputs.manifest_parquet import read_all; read_all()"
ROWS_A_BYTE = 16  # each row has a name of its own: packed as well as Parquet can, ten of them take a byte


def opened_parquet(data: bytes) -> pyarrow.parquet.ParquetFile:
    """Nothing of it kept unpacked yet. Raises BrokenFileError for one that is none, states more than is read, or ends the
    process that reads it.
    """
    _try_elsewhere(data)
    return _opened(data)


def _try_elsewhere(data: bytes) -> None:
    """Reads it in a process of its own: pyarrow ends the one that reads a file with broken statistics, past any handler."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-c", TRIAL, root]
    try:
        ended = subprocess.run(command, input=data, capture_output=True, timeout=TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BrokenFileError(f"is not a readable Parquet file (it takes over {TRIAL_SECONDS} s to read)") from None
    if ended.returncode < 0:
        said = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing more is known"]
        raise BrokenFileError(f"is not a readable Parquet file ({said[0].strip()[:200]})")
    if ended.returncode:
        raise RuntimeError(f"a Parquet file could not be tried: {ended.stderr.decode(errors='replace')[-2000:]}")


def read_all() -> None:
    """What that process does with the file on its standard input. What can be caught is left to the one that asks."""
    try:
        for batch in _batches(_opened(sys.stdin.buffer.read())):
            batch.validate(full=True)
    except (BrokenFileError, *BROKEN):
        pass


def _opened(data: bytes) -> pyarrow.parquet.ParquetFile:
    try:
        said = pyarrow.parquet.read_metadata(io.BytesIO(data))
        leaves = [said.schema.column(each) for each in range(min(said.num_columns, MOST_COLUMNS))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        # Dictionary-encoded, a repeated value takes memory once, and the unpacked size is known before unpacking.
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data), read_dictionary=texts, metadata=said)
        groups = [said.row_group(each) for each in range(min(said.num_row_groups, MOST_GROUPS))]
        values = sum(group.column(each).num_values for group in groups for each in range(len(leaves)))
        sizes = (
            ("row groups", said.num_row_groups, MOST_GROUPS),
            ("columns", said.num_columns, MOST_COLUMNS),
            ("rows", said.num_rows, MOST_ROWS),
            ("cells", max(values, said.num_rows * said.num_columns), MOST_CELLS),
            ("bytes unpacked", sum(group.total_byte_size for group in groups), MOST_BYTES),
        )
    except BROKEN as error:
        raise BrokenFileError(f"is not a readable Parquet file ({str(error)[:200]})") from None
    for what, count, most in sizes:
        if count > most:
            raise BrokenFileError(f"has {count:,} {what}; at most {most:,} are read: divide it")
    if said.num_rows > ROWS_A_BYTE * len(data):
        raise BrokenFileError(
            f"has {said.num_rows:,} rows in {len(data):,} bytes: they repeat, and each needs a name of its own"
        )
    return file


def parquet_rows(file: pyarrow.parquet.ParquetFile) -> Iterator[dict[str, Any]]:
    """Column -> cell of each row, in order. Raises BrokenFileError."""
    try:
        for batch in _batches(file):
            for cells in batch.to_pylist(maps_as_pydicts="strict"):
                yield {name: None if value != value else value for name, value in cells.items()}  # NaN is a gap
    except BROKEN as error:
        raise BrokenFileError(f"is not a readable Parquet file ({str(error)[:200]})") from None


def _batches(file: pyarrow.parquet.ParquetFile) -> Iterator[pyarrow.RecordBatch]:
    """Raises BrokenFileError for more than the limit, and those of BROKEN."""
    unpacked = 0
    for batch in file.iter_batches(BATCH_ROWS):
        unpacked += sum(map(_decoded, batch.columns))
        if unpacked > MOST_BYTES:
            raise BrokenFileError(f"unpacks to more than {MOST_BYTES:,} bytes; at most so many are read: divide it")
        yield batch


def _decoded(array: pyarrow.Array) -> int:
    """The bytes that the values take, those that repeat as often as they do."""
    if pyarrow.types.is_dictionary(array.type):
        lengths = pyarrow.compute.binary_length(array.dictionary)
        return pyarrow.compute.sum(lengths.take(array.indices)).as_py() or 0
    if pyarrow.types.is_map(array.type):
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return sum(_decoded(each.slice(start, end - start)) for each in (array.keys, array.items))
    if pyarrow.types.is_nested(array.type):
        parts = array.flatten()
        return sum(map(_decoded, parts if isinstance(parts, list) else [parts]))
    return int(array.nbytes)
