"""Damaged files: empty, truncated, or of another kind than expected. They are named in the log and never end a run.

A damaged file that can be made again counts as absent. Our own writes are atomic; files are damaged by a full disk, a power
cut, an interrupted copy or another program.
"""

import json
import logging
from typing import Any

from pipeline.logged_events import log_event
from pipeline.store.retry import StorageError
from pipeline.text_files import visible

_log = logging.getLogger(__name__)

SIGNATURES = (  # how the file begins, in lower case; what it is; what to do
    (b"<!doctype html", "a web page (HTML)", "probably an error page saved by a download"),
    (b"<html", "a web page (HTML)", "probably an error page saved by a download"),
    (b"<svg", "an SVG drawing", ""),
    (b"<?xml", "an XML file", "an SVG drawing, or an object store's error message saved by a download"),
    (b"<!--", "a web page (HTML) or XML", "probably an error page saved by a download"),
    (b"<head", "a web page (HTML)", "probably an error page saved by a download"),
    (b"<body", "a web page (HTML)", "probably an error page saved by a download"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull`"),
    (b"%pdf", "a PDF", ""),
    (b"%!ps", "a PostScript file", ""),
    (b"pk\x03\x04", "a ZIP archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"rar!\x1a\x07", "a RAR archive", "unpack it"),
    (b"\xfd7zxz\0", "an xz archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it"),
    (b"bzh", "a bzip2 archive", "unpack it"),
    (b'{"', "a JSON text", ""),  # a brace alone may be the length of a safetensors file's header
    (b"{\n", "a JSON text", ""),
    (b"{\r", "a JSON text", ""),
    (b"{ ", "a JSON text", ""),
    (b"8bps", "a Photoshop file", ""),
    (b"\x89png", "a PNG picture", ""),
    (b"\xff\xd8\xff", "a JPEG picture", ""),
    (b"gif8", "a GIF picture", ""),
    (b"ii*\0", "a TIFF picture", ""),
    (b"mm\0*", "a TIFF picture", ""),
    (b"gguf", "a GGUF model", ""),
    (b"par1", "a Parquet file", ""),
)
LOOKED_AT = 1024  # bytes
MOST_VALUES = 3_000_000  # in a JSON file: each takes up to a hundred bytes of memory, and the list of a million rows has a million


class DamagedFileError(StorageError):
    """The file exists but is damaged or of another kind."""


def most_values(data: bytes) -> int:
    """At most so many values are in a JSON text, told by its signs before it is parsed."""
    return sum(data.count(sign) for sign in (b",", b"[", b"{"))


def object_of(data: bytes, path: str) -> dict[str, Any]:
    """The JSON object that a file holds. path: for the message. Raises DamagedFileError."""
    if (count := most_values(data)) > MOST_VALUES:
        raise DamagedFileError(f"{path} is damaged: it holds up to {count:,} values; at most {MOST_VALUES:,} are read")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is damaged: {len(data):,} bytes that are not JSON ({str(error)[:100]})"
        ) from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} is damaged: it holds no JSON object")
    return content


def say_damaged(path: str, said: str) -> None:
    """Logs the event that a damaged file counts as absent. said: without credentials."""
    log_event(_log, "file_damaged", f"{visible(path)} is damaged ({visible(said[:200])})", "it counts as absent")


def kind_of(data: bytes) -> tuple[str, str]:
    """(what the file is, what to do or ""); ("", "") if its kind is not recognised.

    >>> kind_of(b"version https://git-lfs.github.com/spec/v1")
    ('a Git LFS pointer', 'run `git lfs pull`')
    """
    if not data:
        return "an empty file (zero bytes)", ""
    start = data[:LOOKED_AT].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, kind, advice in SIGNATURES:
        if start.startswith(signature):
            return kind, advice
    if start.startswith(b"riff") and start[8:12] == b"webp":
        return "a WebP picture", ""
    if data[257:262] == b"ustar":
        return "a tar archive", "unpack it"
    return ("a text", "") if b"\0" not in start and _is_text(start) else ("", "")


def _is_text(start: bytes) -> bool:
    """Cut at a fixed length, so that the last character may be a part of one."""
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(start) - error.start < 4 and error.end == len(start)
    return True
