"""Results of a comparison's Ray tasks, kept as Parquet, so that the same command measures no part twice."""

import hashlib

import pyarrow as pa

from pipeline.store.damaged import say_damaged
from pipeline.store.parquet.parquet_tables import TableError, data_of, table_of
from pipeline.store.storage import Storage, StorageNotFoundError


def part_of(folder: str, made_by: object) -> str:
    """The path of a part. made_by: everything that its results depend on, told apart by repr."""
    return f"{folder}/part-{hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]}.parquet"


def kept(storage: Storage, path: str) -> pa.Table | None:
    """None if it has not been measured, or is damaged."""
    try:
        return table_of(storage.read_bytes(path))
    except StorageNotFoundError:
        return None
    except TableError as error:
        say_damaged(path, str(error))
        return None


def keep(storage: Storage, path: str, table: pa.Table) -> None:
    storage.write_bytes(path, data_of(table))
