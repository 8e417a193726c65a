"""Tables of a stranger's run folder: files of kilobytes that say they hold gigabytes, each read in a process of its own."""

import ast
import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.peak import peak_of
from pipeline.store.parquet.parquet_tables import MOST_COLUMNS, TableError, stored_table, table_of
from pipeline.store.run_tables import SAMPLES
from pipeline.store.storage import Storage

ROOT = Path(__file__).parents[3]
READ = (
    "from pipeline.store.parquet.parquet_tables import stored_table\nfrom pipeline.store.storage import Storage",
    "stored_table(Storage(sys.argv[1]), 'a.parquet')",
)


def written(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"compression": "zstd", **options})
    return sink.getvalue()


def repeated(rows: int, kind: pa.DataType, value: object) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), rows)


def inside(kind: str) -> bytes:
    """One text of 10 MB, 5,000 times, inside a list, a map or a struct."""
    text = pa.array(["a" * 10_000_000])
    inner = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), text)
    if kind == "struct":
        column = pa.StructArray.from_arrays([inner], ["bytes"])
    else:
        offsets = pa.array(range(5_001), pa.int32())
        keys = pa.array(["k"] * 5_000)
        column = (
            pa.ListArray.from_arrays(offsets, inner)
            if kind == "list"
            else pa.MapArray.from_arrays(offsets, keys, inner)
        )
    return written(pa.table({"image": column}), dictionary_pagesize_limit=20_000_000, store_schema=False)


def one_list(rows: int) -> bytes:
    nulls = pa.nulls(rows, pa.float32())
    return written(pa.table({"vectors": pa.ListArray.from_arrays(pa.array([0, rows], pa.int32()), nulls)}))


def varint(value: int) -> bytes:
    said = b""
    while value > 127:
        said, value = said + bytes([value & 127 | 128]), value >> 7
    return said + bytes([value])


def lying_page(field: int, value: int) -> bytes:
    """A number of the first page's header changed: 2, its bytes unpacked; 5, its values."""
    data = written(pa.table({"seed": pa.array([7] * 100)}), compression="none", use_dictionary=False)
    own = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
    start = own.data_page_offset
    # A page's header: its type, its bytes unpacked and packed, and a struct that begins with its values.
    number = rb"(\x15[\x80-\xff]*[\x00-\x7f])"
    numbers = re.match(rb"\x15\x00" + number * 2 + rb"\x2c" + number, data[start:])
    assert numbers, data[start : start + 30]
    group = {2: 1, 5: 3}[field]
    changed = b"\x15" + varint(2 * value)
    body = data[: start + numbers.start(group)] + changed + data[start + numbers.end(group) : -8]
    return body + data[-8:]


def footer_of(columns: int) -> bytes:
    return written(pa.table({f"c{number}": pa.array([1]) for number in range(columns)}), store_schema=False)


def many_groups(groups: int) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"a": pa.array([1])})
    with pq.ParquetWriter(sink, table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table)
    return sink.getvalue()


def footer_of_fields(entries: int) -> bytes:
    """In Thrift's compact protocol, a file of as many fields, each with an empty name."""
    return with_footer(b"\x15\x02\x19\xfc" + varint(entries) + b"\x48\x00\x00" * entries + b"\x16\x00\x19\x0c\x00")


def footer_of_columns(groups: int, columns: int) -> bytes:
    """Row groups that say of each column no more than where it stands."""
    group = b"\x19\xfc" + varint(columns) + b"\x26\x00\x00" * columns + b"\x16\x00\x16\x00\x00"
    schema = b"\x19\x2c\x48\x00\x15\x02\x00\x15\x02\x25\x00\x18\x01a\x00"
    return with_footer(b"\x15\x02" + schema + b"\x16\x00\x19\xfc" + varint(groups) + group * groups + b"\x00")


def with_footer(footer: bytes) -> bytes:
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "300 million rows of one number": (lambda: written(pa.table({"a": repeated(300_000_000, pa.int8(), 1)})), "rows"),
    "a text of 10 MB, 5,000 times": (
        lambda: written(
            pa.table({"a": pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), pa.array(["a" * 10_000_000]))}),
            dictionary_pagesize_limit=20_000_000, store_schema=False,
        ), "unpacks",
    ),
    "the same in a struct": (lambda: inside("struct"), "unpacks"),
    "the same in a list": (lambda: inside("list"), "unpacks"),
    "the same in a map": (lambda: inside("map"), "unpacks"),
    "a list of 300 million gaps": (lambda: one_list(300_000_000), "unpacks"),
    "texts that begin alike": (
        lambda: written(
            pa.table({"a": ["a" * 1_000_000] * 5_000}), use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY",
        ), "encoding 7",
    ),
    "a page of zeros": (
        lambda: written(pa.table({"a": [bytes(1_000_000_000)]}), use_dictionary=False, write_statistics=False), "unpacks",
    ),
    "a page that says 2 GB": (lambda: lying_page(2, 2**31 - 1), "unpacks"),
    "a page that says a billion values": (lambda: lying_page(5, 10**9), "unpacks"),
    "a page of 2^40 values": (lambda: lying_page(5, 2**40), "size that it cannot have"),
    "5,000 columns": (lambda: footer_of(5_000), "columns|its footer has"),
    "21,000 row groups": (lambda: many_groups(21_000), "its footer has|row groups|limit"),
    "a footer of a million fields": (lambda: footer_of_fields(1_000_000), "its footer has"),
    "a footer of 19,000 fields": (lambda: footer_of_fields(19_000), "."),
    "a footer longer than the file": (lambda: b"PAR1" + b"\xff\xff\xff\x7fPAR1", "no whole Parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_table_that_says_gigabytes_is_damaged_and_takes_little(attack: str, tmp_path: Path) -> None:
    make, said = ATTACKS[attack]
    (tmp_path / "a.parquet").write_bytes(make())
    assert (tmp_path / "a.parquet").stat().st_size < 5_000_000
    grown, raised = peak_of(*READ, tmp_path)
    assert raised.startswith("DamagedFileError a.parquet is damaged: "), raised
    assert re.search(said, raised), raised
    assert len(raised) < 300
    assert grown < 200


def test_a_footer_of_90_000_columns_takes_little(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(footer_of_columns(6, 15_000))
    grown, _ = peak_of(*READ, tmp_path)
    assert grown < 200


@pytest.mark.parametrize(("groups", "said"), [(44, ""), (46, "its footer has")])
def test_a_large_files_footer_is_bounded_as_well(groups: int, said: str, tmp_path: Path) -> None:
    table = footer_of_columns(groups, 15_000)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(3_000_000) + table[4:])
    grown, raised = peak_of(*READ, tmp_path)
    assert said in raised
    assert grown < 700


def test_a_table_at_the_limits_is_read_whole(tmp_path: Path) -> None:
    """Catches limits that refuse what runs write: pictures of megabytes, columns of a wide manifest, words without a score."""
    picture = {"bytes": b"\x89PNG" + bytes(range(256)) * 8_000, "path": "a.png"}
    row = {"concept": "owl", "fingerprint": "0" * 64, "kind": "training", "prompt": "a photo", "index": 0, "seed": 0}
    samples = pa.Table.from_pylist([{**row, "stated": "", "image": picture}] * 40, SAMPLES)
    wide = pa.table({f"c{number}": [str(number)] * 10_000 for number in range(100)})
    assert wide.num_columns < MOST_COLUMNS
    empty = pa.table({"concept": ["owl"] * 100_000, "value": pa.nulls(100_000, pa.float64())})
    for table in (samples, wide, empty, SAMPLES.empty_table()):
        Storage(str(tmp_path)).write_bytes("a.parquet", written(table, row_group_size=256))
        assert stored_table(Storage(str(tmp_path)), "a.parquet").equals(table)


def test_a_table_cut_anywhere_or_with_a_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    data = written(pa.table({"concept": ["owl", "cat"], "value": [0.5, None], "image": [{"bytes": b"a"}, None]}))
    for length in range(len(data)):
        with pytest.raises(TableError):
            table_of(data[:length])
    pages = min(pq.read_metadata(io.BytesIO(data)).row_group(0).column(0).data_page_offset, 4)
    for place in range(pages, len(data) - 8 - int.from_bytes(data[-8:-4], "little")):
        with suppress(TableError):
            table_of(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])


READERS = {
    "read_table",
    "ParquetFile",
    "ParquetDataset",
    "read_parquet",
    "read_metadata",
    "read_schema",
    "iter_batches",
}
OWN = {"pipeline/store/parquet/parquet_tables.py", "pipeline/inputs/manifest_parquet.py"}
# These read the run that they have just made themselves.
OF_OWN_RUNS = ("jobs/bench/", "jobs/mini/", "jobs/demo/")


def readers(source: str) -> Iterator[str]:
    """The calls in a module that read Parquet through a library."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in READERS:
            yield ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = getattr(node, "module", None) or ""
            yield from (
                each.name
                for each in node.names
                if "pyarrow.dataset" in f"{named}.{each.name}" or (named == "pyarrow.parquet" and each.name in READERS)
            )


def test_no_other_module_reads_parquet() -> None:
    """Catches a table that is read past the limits."""
    modules = [path for part in ("pipeline", "eval", "jobs", "cluster") for path in (ROOT / part).rglob("*.py")]
    assert len(modules) > 100
    found = {path.relative_to(ROOT).as_posix(): list(readers(path.read_text(encoding="utf-8"))) for path in modules}
    reading = {name for name, calls in found.items() if calls and not name.startswith(OF_OWN_RUNS)}
    assert reading == OWN
