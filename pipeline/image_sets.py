"""A concept's files: which they are, and their pictures together.

    concept -> find_sources -> Sources -> load_images -> ImageSet

A file that cannot serve is set aside with its reason; only a concept left with too few images fails. A store that does
not answer is another matter: StorageUnavailableError goes through, lest a word be learned from half of its pictures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.images import READABLE, SQUARE_MODES, decode
from pipeline.records import Concept, ImageSet, RejectedImage, Source
from pipeline.settings import CropMode
from pipeline.storage import (
    Storage,
    StorageError,
    StorageNotFoundError,
    StorageTooLargeError,
    StorageUnavailableError,
    without_credentials,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
MAX_BYTES = 200_000_000
MAX_IMAGES = 1_000


class ImageSetError(Exception):
    """A concept has fewer usable images than it needs; the message lists every file with its reason.

    sources: the files that were looked at, () where none was found.
    """

    def __init__(self, message: str, sources: tuple[Source, ...] = ()) -> None:
        super().__init__(message)
        self.sources = sources


def find_sources(concept: Concept, storage_options: Mapping[str, Any] | None = None) -> tuple[Source, ...]:
    """The concept's images by URL, each once and not read yet; folders and globs expanded, hidden files left out.

    Raises ImageSetError when there are none or more than 1,000.
    """
    found: dict[str, str | None] = {}
    notes: list[str] = []
    for pattern in concept.images:
        identities, note = _expand(pattern, storage_options or {})
        found.update(identities)
        notes += [note] if note else []
    if not found:
        raise ImageSetError(f"{concept.name}: no images found\n" + "\n".join(f"  {note}" for note in notes))
    if len(found) > MAX_IMAGES:
        raise ImageSetError(
            f"{concept.name}: {len(found):,} images found, at most {MAX_IMAGES:,} are taken: a word "
            "needs 3 to 5. Name some of them, or a smaller folder."
        )
    return tuple(Source(url, found[url]) for url in sorted(found))


def find_images(concept: Concept, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The URLs of `find_sources`."""
    return tuple(source.url for source in find_sources(concept, storage_options))


def _expand(pattern: str, options: Mapping[str, Any]) -> tuple[dict[str, str | None], str]:
    """URL -> identity of the files that one folder, glob or file name stands for; and, where they are none, a note why."""
    shown = without_credentials(pattern, options)
    try:
        place = Storage(pattern, options)
        if place.is_web:
            return {pattern: None}, ""
        if any(sign in pattern for sign in "*?[") and not place.exists():
            fixed = pattern[: min(pattern.index(sign) for sign in "*?[" if sign in pattern)]
            matched = place.glob().items()
            pictures = {url: known for url, known in matched if _is_picture(url) and not _is_hidden(url[len(fixed) :])}
            return pictures, f"{shown} matches no picture ({READABLE})"
        if _is_picture(pattern):
            return {place.join(""): place.identity()}, ""
        files = place.identities()
        if not files:
            is_file = place.is_file()  # one without a suffix
            note = f"{shown}: no such file, nor a folder with files"
            return ({place.join(""): place.identity()}, "") if is_file else ({}, note)
        pictures = {
            place.join(name): known for name, known in files.items() if _is_picture(name) and not _is_hidden(name)
        }
        others = ", ".join(list(files)[:3]) + (", ..." if len(files) > 3 else "")
        return pictures, f"{shown} holds no picture among {len(files)} files ({others}); {READABLE}"
    except StorageUnavailableError:
        raise
    except (StorageError, ValueError) as error:
        return {}, str(error)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def digest_of(source: Source, storage_options: Mapping[str, Any]) -> str:
    """sha256 of the file's bytes, "" for one that is not there or cannot be read. Raises StorageUnavailableError."""
    try:
        return hashlib.sha256(_read(source, storage_options)).hexdigest()
    except StorageUnavailableError:
        raise
    except StorageError:
        return ""


def load_images(
    sources: Sequence[Source | str],
    resolution: int,
    crop: CropMode = "centre",
    storage_options: Mapping[str, Any] | None = None,
    minimum: int = 1,
) -> ImageSet:
    """Reads the images, sources or bare URLs, in the order given; those that cannot serve are in `rejected`, with reasons.

    resolution: R of the pixels (N, R, R, 3). crop: "centre" cuts the middle square out, "pad" adds white bars,
    "squash" changes the proportions, as the original publication's code does.
    Raises ImageSetError when fewer than `minimum` remain.
    """
    if crop not in SQUARE_MODES:
        raise ValueError(f"crop is {crop!r}; it must be one of {', '.join(SQUARE_MODES)}")
    pixels: list[np.ndarray] = []
    kept: dict[str, str] = {}  # digest -> URL
    rejected: list[RejectedImage] = []
    seen: list[Source] = []
    for source in (Source(each) if isinstance(each, str) else each for each in sources):
        shown, digest = without_credentials(source.url, storage_options), ""
        try:
            data = _read(source, storage_options or {})
            digest = hashlib.sha256(data).hexdigest()
            if digest in kept:
                rejected.append(RejectedImage(shown, f"the same bytes as {kept[digest]}, which is kept"))
                continue
            pixels.append(decode(data, resolution, crop))
            kept[digest] = shown
        except StorageUnavailableError:
            raise
        except StorageNotFoundError:
            rejected.append(RejectedImage(shown, "there is no such file"))
        except StorageTooLargeError:
            rejected.append(RejectedImage(shown, f"larger than {MAX_BYTES // 1_000_000} MB: make it smaller"))
        except (StorageError, ValueError) as error:
            rejected.append(RejectedImage(shown, str(error)))
        finally:
            seen.append(replace(source, digest=digest))
    if len(pixels) < minimum:
        reasons = "".join(f"\n  {image.url}: {image.reason}" for image in rejected)
        said = f"{len(pixels)} of {len(seen)} images can be used, at least {minimum} needed{reasons}"
        raise ImageSetError(said, tuple(seen))
    return ImageSet(np.stack(pixels), tuple(kept.values()), tuple(kept), tuple(rejected), tuple(seen))


def _read(source: Source, storage_options: Mapping[str, Any]) -> bytes:
    return Storage(source.url, storage_options).read_bytes(at_most=MAX_BYTES)
