"""Expands one entry of a manifest's `images` column (a folder, a pattern or a file) to files.

Only what a person wrote in the column may be a pattern. The folder that the entry is relative to and all listed names are
plain names, whatever characters they hold. Files that cannot be used are returned with their reason.
"""

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.inputs.picture_file import READABLE
from pipeline.records import RejectedImage
from pipeline.store.storage import Storage, StorageError, StorageUnavailableError, without_credentials
from pipeline.text_files import visible

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw")
UNREAD = {
    **dict.fromkeys((".jxl",), "a JPEG XL picture: convert it to JPEG or PNG"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "a JPEG 2000 picture: convert it to JPEG or PNG"),
    **dict.fromkeys((".svg", ".svgz"), "an SVG drawing: convert it to PNG"),
    **dict.fromkeys((".psd", ".psb"), "a Photoshop file: export it as PNG"),
    **dict.fromkeys((".eps", ".ai"), "a PostScript drawing: convert it to PNG"),
    **dict.fromkeys(RAW, "a camera's raw picture: export it as JPEG"),
}
MOST_FILES = 100_000  # in a folder that is one concept's
SIGNS = re.compile(r"[*?[]")
ESCAPED = re.compile(r"\[([*?[])\]")  # a sign of patterns that stands for itself, as glob.escape writes it


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of an entry. files: URL -> identity. unusable: files that cannot be used. note: why there are none."""

    files: Mapping[str, str | None] = field(default_factory=dict)
    unusable: tuple[RejectedImage, ...] = ()
    note: str = ""


def plain(folder: str) -> str:
    """The folder's name escaped for use at the beginning of a pattern."""
    return SIGNS.sub(lambda sign: f"[{sign[0]}]", folder)


def list_files(entry: str, options: Mapping[str, Any]) -> Listing:
    """The files of one entry; `note` says if it does not exist or cannot be listed. Raises StorageUnavailableError."""
    name = ESCAPED.sub(r"\1", entry)
    shown = visible(without_credentials(name, options))
    try:
        place = Storage(name, options)
        if place.is_web:
            return Listing({name: None})
        kind = place.kind()
        if kind is None and SIGNS.search(ESCAPED.sub("", entry)):
            return _matching(entry, options, shown)
        if kind == "directory":
            return _inside(place, shown)
        if kind == "file" or place.is_link():
            return _sorted_out(place, {"": place.identity()}, "")
        # A file that is named but does not exist is reported later, as one that could not be read.
        return Listing({place.join(""): None}) if _suffix(name) in SUFFIXES else _inside(place, shown)
    except StorageUnavailableError:
        raise
    except (StorageError, ValueError) as error:
        return Listing(note=str(error))


def _inside(place: Storage, shown: str) -> Listing:
    files = place.identities(at_most=MOST_FILES) | dict.fromkeys(place.links_to_nothing())
    if not files:
        return Listing(note=f"{shown}: no such file, nor a folder with files")
    others = ", ".join(visible(_printable(name)) for name in list(files)[:3]) + (", ..." if len(files) > 3 else "")
    note = f"{shown} holds no picture among {len(files)} files ({others}); {READABLE}"
    return _sorted_out(place, {name: files[name] for name in sorted(files)}, note)


def _matching(entry: str, options: Mapping[str, Any], shown: str) -> Listing:
    """Of a pattern: the folder before its first sign is a plain name."""
    parts = entry.split("/")
    first = next(place for place, part in enumerate(parts) if SIGNS.search(ESCAPED.sub("", part)))
    folder = ESCAPED.sub(r"\1", "/".join(parts[:first]))
    if folder.endswith(":/"):
        return Listing(note=f"{shown}: a bucket's name cannot be a pattern")
    place = Storage(folder or "/", options)
    return _sorted_out(place, place.matching("/".join(parts[first:])), f"{shown} matches no picture ({READABLE})")


def _sorted_out(place: Storage, names: Mapping[str, str | None], note: str) -> Listing:
    """names: of files below the place, "" being the place itself, with their identities."""
    files: dict[str, str | None] = {}
    unusable: list[RejectedImage] = []
    for name, identity in names.items():
        suffix = _suffix(name or place.url)
        if (name and _is_hidden(name)) or (name and suffix not in SUFFIXES and suffix not in UNREAD):
            continue
        try:
            url = place.join(name)
            if reason := UNREAD.get(suffix, "") or _what_is_wrong(place, url):
                raise ValueError(reason)
            files[url] = identity
        except ValueError as error:
            whole = visible(_printable(f"{place.join('')}/{name}" if name else place.join("")))
            unusable.append(RejectedImage(without_credentials(whole, place.options), str(error)))
    return Listing(files, tuple(unusable), "" if files else note)


def _what_is_wrong(place: Storage, url: str) -> str:
    if url != _printable(url):
        return "its name is not UTF-8, so it cannot be written down: rename it"
    if place.is_local and os.path.islink(url) and not Path(url).exists():  # noqa: PTH114 - of a plain string
        return "a link to nothing: what it points to is gone"
    return ""


def _printable(name: str) -> str:
    """The name with bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
