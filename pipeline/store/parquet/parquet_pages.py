"""What the pages of a Parquet file unpack to, told by their headers without unpacking one.

The footer states sizes too, but nothing holds a reader to them: memory is allocated by the page headers, which stand in the file
between the pages. They are Thrift structs in the compact protocol; the format is described in github.com/apache/parquet-format.
"""

from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow.parquet import FileMetaData

DATA, DICTIONARY, DATA_2 = 0, 2, 3  # kinds of pages
INDEXED = (2, 8)  # encodings whose values stand in the column's dictionary
# PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, RLE_DICTIONARY: what pyarrow writes. Others unpack a few bytes to long texts.
ENCODINGS = (0, 2, 3, 4, 8)
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 8}
LEVELS, ENTRY = 4, 16  # bytes: of a value's two levels, and of an entry of a dictionary, before its text
MOST_DEEP, MOST_PAGES, MOST_I32 = 4, 1_000_000, 2**31 - 1
SMALL = 1_000_000  # bytes
CODECS = ("ZSTD", "SNAPPY")


class Page(NamedTuple):
    """unpacked: bytes. values: of a dictionary, its entries. start, end: of what is packed, in the file."""

    kind: int
    unpacked: int
    values: int
    encoding: int
    start: int
    end: int


def unpacked_bytes(data: bytes, footer: FileMetaData, at_most: int) -> int:
    """About as many bytes as the pages and their values take unpacked. In columns inside lists, maps and structs, a text of the
    dictionary counts as the longest one as often as one is named; in other columns once.

    Raises ValueError for pages that are broken, have an encoding that no table of ours has, or take more than `at_most`.
    """
    bytes_, pages = 0, 0
    widths = [_width(footer, number) for number in range(footer.num_columns)]
    for group_number in range(footer.num_row_groups):
        group = footer.row_group(group_number)
        for number, width in enumerate(widths):
            chunk = group.column(number)
            if chunk.num_values <= 0:
                continue  # no page of it is read, and the offsets of an empty table name none
            bytes_ += chunk.num_values * width  # a reader makes room for as many
            at, end = _place(chunk)
            dictionary, indexed = None, 0
            while at < end:
                page = _page(data, at)
                at = page.end
                pages += 1
                bytes_ += page.unpacked + page.values * (ENTRY if page.kind == DICTIONARY else width)
                if page.kind == DICTIONARY:
                    if dictionary is not None:
                        raise ValueError("a column has two dictionaries")
                    dictionary = page
                indexed += page.values if page.kind != DICTIONARY and page.encoding in INDEXED else 0
                if bytes_ > at_most or pages > MOST_PAGES:
                    raise ValueError(f"it unpacks to more than {at_most:,} bytes, or has over {MOST_PAGES:,} pages")
            if dictionary and "." in chunk.path_in_schema and chunk.physical_type == "BYTE_ARRAY":
                bytes_ += _of_dictionary(data, dictionary, indexed, chunk.compression)
    if bytes_ > at_most:
        raise ValueError(f"it unpacks to more than {at_most:,} bytes")
    return bytes_


def _of_dictionary(data: bytes, page: Page, indexed: int, codec: str) -> int:
    """The most bytes that as many texts of this dictionary come to."""
    longest = page.unpacked
    if indexed * longest > SMALL and codec in CODECS:
        packed = data[page.start : page.end]
        entries = pa.decompress(packed, page.unpacked, codec.lower(), asbytes=True)
        longest = at = 0
        for _ in range(page.values):  # its length in four bytes before each
            length = int.from_bytes(entries[at : at + 4], "little")
            at += 4 + length
            longest = max(longest, length)
    return indexed * longest


def _width(footer: FileMetaData, number: int) -> int:
    """Bytes that a value of the column takes at least."""
    column = footer.schema.column(number)
    return LEVELS + WIDTHS.get(column.physical_type, max(column.length, 0))


def _place(chunk: Any) -> tuple[int, int]:
    """Where its pages start and end: as pyarrow finds them."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    if start < 0 or chunk.total_compressed_size < 0:
        raise ValueError("a column stands before the file's start")
    return start, start + chunk.total_compressed_size


def _page(data: bytes, at: int) -> Page:
    try:
        header, at = _struct(data, at)
        kind, unpacked, packed = header[1], header[2], header[3]
        own = header[{DATA: 5, DICTIONARY: 7, DATA_2: 8}[kind]]
        values, encoding = own[1], own[4 if kind == DATA_2 else 2]
    except (IndexError, KeyError, TypeError):
        raise ValueError("a page has a broken header") from None
    if min(unpacked, packed, values) < 0 or at + packed > len(data):
        raise ValueError("a page has a size that it cannot have")
    if encoding not in ENCODINGS:
        raise ValueError(f"a page has encoding {encoding}, which is not read")
    return Page(kind, unpacked, values, encoding, at, at + packed)


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """(number -> int or struct, where it ends); fields of other types are passed over. Raises IndexError and ValueError."""
    fields: dict[int, Any] = {}
    seen: set[int] = set()
    number = 0
    while head := data[at]:
        at += 1
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, at = _signed(data, at)
        if number in seen:  # which of two counts is up to the reader
            raise ValueError("a page has a broken header")
        seen.add(number)
        if kind in (4, 5, 6):  # integers of 16, 32 and 64 bits
            value, at = _signed(data, at)
            if kind == 5:
                fields[number] = value
        elif kind == 8:  # bytes
            length, at = _unsigned(data, at)
            at += length
        elif kind == 12 and depth < MOST_DEEP:
            fields[number], at = _struct(data, at, depth + 1)
        elif kind in (3, 7):  # a byte, a double
            at += 1 if kind == 3 else 8
        elif kind not in (1, 2):  # true, false
            raise ValueError("a page has a broken header")
    return fields, at + 1


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    value = (value >> 1) ^ -(value & 1)
    if abs(value) > MOST_I32:
        raise ValueError("a page has a size that it cannot have")
    return value, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a page has a broken header")
