"""A concept's files: which they are, and their pictures together.

    concept -> find_sources -> Sources -> load_images -> ImageSet

A file that cannot serve is set aside with its reason; only a concept left with too few images fails. A store that does
not answer is another matter: StorageUnavailableError goes through, lest a word be learned from half of its pictures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.inputs.images import READABLE, SQUARE_MODES, decode, decode_alpha, decode_mask
from pipeline.inputs.sidecars import MASKS, Extras, caption_of, sidecar_of, with_sidecars
from pipeline.records import Concept, ImageSet, RejectedImage, Source
from pipeline.settings import CropMode
from pipeline.store.storage import (
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
NOTHING = Extras()


class ImageSetError(Exception):
    """A concept has fewer usable images than it needs; the message lists every file with its reason.

    sources: the files that were looked at, () where none was found.
    """

    def __init__(self, message: str, sources: tuple[Source, ...] = ()) -> None:
        super().__init__(message)
        self.sources = sources


def find_sources(
    concept: Concept, storage_options: Mapping[str, Any] | None = None, extras: Extras = NOTHING
) -> tuple[Source, ...]:
    """The concept's images by URL, each once and not read yet; folders and globs expanded, hidden files left out. Each is
    followed by what lies beside it, where that is wanted.

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
    sources, count = with_sidecars(found, extras, storage_options or {})
    if count > MAX_IMAGES:
        raise ImageSetError(
            f"{concept.name}: {count:,} images found, at most {MAX_IMAGES:,} are taken: a word "
            "needs 3 to 5. Name some of them, or a smaller folder."
        )
    if extras.captions and not any(source.role == "caption" for source in sources):
        raise ImageSetError(f"{concept.name}: captions are asked for, and no picture has one: cat.txt beside cat.jpg")
    if concept.word_file:
        word = Storage(concept.word_file, storage_options or {})
        sources.append(Source(concept.word_file, None if word.is_web else word.identity(), role="word"))
    return tuple(sources)


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
    extras: Extras = NOTHING,
) -> ImageSet:
    """Reads the images, sources or bare URLs, in the order given; those that cannot serve are in `rejected`, with reasons.
    So are those without a mask where masks are wanted.

    resolution: R of the pixels (N, R, R, 3). crop: "centre" cuts the middle square out, "pad" adds white bars,
    "squash" changes the proportions, as the original publication's code does.
    Raises ImageSetError when fewer than `minimum` remain.
    """
    if crop not in SQUARE_MODES:
        raise ValueError(f"crop is {crop!r}; it must be one of {', '.join(SQUARE_MODES)}")
    reader = _Reader(resolution, crop, storage_options or {}, extras)
    wanted = [Source(each) if isinstance(each, str) else each for each in sources]
    pixels: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    captions: list[str | None] = []
    kept: dict[str, str] = {}  # digest -> URL
    rejected: list[RejectedImage] = []
    seen: dict[str, Source] = {}
    for source in wanted:
        if source.role != "picture":
            continue
        shown = without_credentials(source.url, storage_options)
        try:
            data = reader.read(source, seen)
            digest = seen[source.url].digest
            if digest in kept:
                rejected.append(RejectedImage(shown, f"the same bytes as {kept[digest]}, which is kept"))
                continue
            picture = decode(data, resolution, crop)
            masks += reader.masks(source, data, wanted, seen)
            captions += reader.captions(source, wanted, seen)
            pixels.append(picture)
            kept[digest] = shown
        except StorageUnavailableError:
            raise
        except StorageNotFoundError:
            rejected.append(RejectedImage(shown, "there is no such file"))
        except StorageTooLargeError:
            rejected.append(RejectedImage(shown, f"larger than {MAX_BYTES // 1_000_000} MB: make it smaller"))
        except (StorageError, ValueError) as error:
            rejected.append(RejectedImage(shown, str(error)))
    # What lies beside a picture that was not used counts in the fingerprint all the same: planning reads no pictures.
    looked_at = tuple(
        seen.get(each.url)
        or (replace(each, digest=digest_of(each, storage_options or {})) if each.role != "picture" else each)
        for each in wanted
    )
    if len(pixels) < minimum:
        reasons = "".join(f"\n  {image.url}: {image.reason}" for image in rejected)
        count = sum(source.role == "picture" for source in wanted)
        said = f"{len(pixels)} of {count} images can be used, at least {minimum} needed{reasons}"
        raise ImageSetError(said, looked_at)
    return ImageSet(
        np.stack(pixels), tuple(kept.values()), tuple(kept), tuple(rejected), looked_at, tuple(captions),
        np.stack(masks) if masks else None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads pictures and what lies beside them, noting each file's digest in `seen`."""

    resolution: int
    crop: CropMode
    options: Mapping[str, Any]
    extras: Extras

    def read(self, source: Source, seen: dict[str, Source]) -> bytes:
        data = _read(source, self.options)
        seen[source.url] = replace(source, digest=hashlib.sha256(data).hexdigest())
        return data

    def masks(
        self, picture: Source, data: bytes, sources: Sequence[Source], seen: dict[str, Source]
    ) -> list[np.ndarray]:
        """One, or none where none is wanted. Raises ValueError."""
        if self.extras.masks == "alpha":
            return [decode_alpha(data, self.resolution, self.crop)]
        if self.extras.masks == "off":
            return []
        source = sidecar_of(picture.url, sources, "mask")
        if source is None:
            raise ValueError(f"there is no mask beside it, which would be called NAME{MASKS[0]}")
        try:
            return [decode_mask(self.read(source, seen), data, self.resolution, self.crop)]
        except ValueError as error:
            raise ValueError(f"its mask, {without_credentials(source.url, self.options)}: {error}") from None

    def captions(self, picture: Source, sources: Sequence[Source], seen: dict[str, Source]) -> list[str | None]:
        """One, None for a picture that has none; or [] where none is wanted. Raises ValueError."""
        if not self.extras.captions:
            return []
        source = sidecar_of(picture.url, sources, "caption")
        if source is None:
            return [None]
        try:
            return [caption_of(self.read(source, seen))]
        except ValueError as error:
            raise ValueError(f"its caption, {without_credentials(source.url, self.options)}: {error}") from None


def _read(source: Source, storage_options: Mapping[str, Any]) -> bytes:
    return Storage(source.url, storage_options).read_bytes(at_most=MAX_BYTES)
