"""A concept's files: finds them, and reads its pictures with their captions and masks.

    concept -> find_sources -> Sources -> load_images -> ImageSet

A file that cannot be used is rejected with its reason. A concept fails only if too few pictures are left. If a store does not
answer, StorageUnavailableError is raised, so that no word is learned from half of its pictures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.inputs.images import SQUARE_MODES, decode, decode_alpha, decode_mask
from pipeline.inputs.listing import list_files
from pipeline.inputs.sidecars import MASKS, MOST_CAPTION_BYTES, Extras, caption_of, sidecar_of, with_sidecars
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
from pipeline.text_files import visible

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


@dataclass(frozen=True, slots=True)
class Sources:
    """A concept's files, not read yet, and the files that cannot be pictures, with reasons."""

    files: tuple[Source, ...]
    unusable: tuple[RejectedImage, ...] = ()


def find_sources(
    concept: Concept, storage_options: Mapping[str, Any] | None = None, extras: Extras = NOTHING
) -> Sources:
    """The concept's images sorted by URL, each once and not read yet. Folders and globs are expanded, hidden files left out.
    Each is followed by its caption and mask, if these are wanted.

    Raises ImageSetError when there are none or more than 1,000.
    """
    listings = [list_files(entry, storage_options or {}) for entry in concept.images]
    pictures = {url: identity for listing in listings for url, identity in listing.files.items()}
    unusable = {each.url: each for listing in listings for each in listing.unusable}
    if not pictures:
        notes = [listing.note for listing in listings if listing.note]
        notes += [f"{each.url}: {each.reason}" for each in unusable.values()]
        raise ImageSetError(f"{concept.name}: no images found\n" + "\n".join(f"  {note}" for note in notes))
    sources, count = with_sidecars(pictures, extras, storage_options or {})
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
    return Sources(tuple(sources), tuple(unusable.values()))


def find_images(concept: Concept, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The URLs of `find_sources`."""
    return tuple(source.url for source in find_sources(concept, storage_options).files)


def digest_of(source: Source, storage_options: Mapping[str, Any]) -> str:
    """sha256 of the file's bytes; "" if it does not exist or cannot be read. Raises StorageUnavailableError."""
    try:
        return hashlib.sha256(_read(source, storage_options)).hexdigest()
    except StorageUnavailableError:
        raise
    except StorageError:
        return ""


def load_images(
    sources: Sources | Sequence[Source | str],
    resolution: int,
    crop: CropMode = "centre",
    storage_options: Mapping[str, Any] | None = None,
    minimum: int = 1,
    extras: Extras = NOTHING,
) -> ImageSet:
    """Reads the images (sources or URLs) in the given order. Those that cannot be used are in `rejected` with reasons,
    also those without a mask if masks are wanted.

    resolution: R of the pixels (N, R, R, 3). crop: "centre" cuts the middle square out, "pad" adds white bars,
    "squash" changes the proportions, as the original publication's code does.
    Raises ImageSetError when fewer than `minimum` remain.
    """
    if crop not in SQUARE_MODES:
        raise ValueError(f"crop is {crop!r}; it must be one of {', '.join(SQUARE_MODES)}")
    if not isinstance(sources, Sources):
        sources = Sources(tuple(Source(each) if isinstance(each, str) else each for each in sources))
    reader = _Reader(resolution, crop, storage_options or {}, extras, sources.files)
    kept: dict[str, _Picture] = {}  # by digest
    rejected = list(sources.unusable)
    seen: dict[str, Source] = {}
    for source in sources.files:
        if source.role != "picture":
            continue
        shown = visible(without_credentials(source.url, storage_options))
        try:
            data = reader.read(source, seen, MAX_BYTES)
            digest = seen[source.url].digest
            if digest in kept:
                rejected.append(RejectedImage(shown, f"the same bytes as {kept[digest].url}, which is kept"))
                continue
            # A picture is kept only once its mask and caption are read too.
            kept[digest] = reader.picture(source, shown, data, seen)
        except StorageUnavailableError:
            raise
        except StorageNotFoundError:
            rejected.append(RejectedImage(shown, "there is no such file"))
        except StorageTooLargeError:
            rejected.append(RejectedImage(shown, f"larger than {MAX_BYTES // 1_000_000} MB: make it smaller"))
        except (StorageError, ValueError) as error:
            rejected.append(RejectedImage(shown, str(error)))
    # Captions and masks of rejected pictures are in the fingerprint too, because planning does not decode pictures.
    looked_at = tuple(
        seen.get(each.url)
        or (replace(each, digest=digest_of(each, storage_options or {})) if each.role != "picture" else each)
        for each in sources.files
    )
    if len(kept) < minimum:
        reasons = "".join(f"\n  {image.url}: {image.reason}" for image in rejected)
        count = sum(source.role == "picture" for source in sources.files) + len(sources.unusable)
        said = f"{len(kept)} of {count} images can be used, at least {minimum} needed{reasons}"
        raise ImageSetError(said, looked_at)
    pictures = list(kept.values())
    masks = [each.mask for each in pictures if each.mask is not None]
    return ImageSet(
        np.stack([each.pixels for each in pictures]), tuple(each.url for each in pictures), tuple(kept), tuple(rejected),
        looked_at, tuple(each.caption for each in pictures) if extras.captions else (), np.stack(masks) if masks else None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Picture:
    """One usable picture. url: without credentials. pixels: uint8 (R, R, 3). mask: uint8 (R, R)."""

    url: str
    pixels: np.ndarray
    mask: np.ndarray | None
    caption: str | None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads pictures with their captions and masks, and notes each file's digest in `seen`."""

    resolution: int
    crop: CropMode
    options: Mapping[str, Any]
    extras: Extras
    sources: Sequence[Source]

    def read(self, source: Source, seen: dict[str, Source], at_most: int) -> bytes:
        data = Storage(source.url, self.options).read_bytes(at_most=at_most)
        seen[source.url] = replace(source, digest=hashlib.sha256(data).hexdigest())
        return data

    def picture(self, source: Source, shown: str, data: bytes, seen: dict[str, Source]) -> _Picture:
        """Raises ValueError with the reason if the picture, its mask or its caption cannot be used."""
        pixels = decode(data, self.resolution, self.crop)
        return _Picture(shown, pixels, self._mask(source, data, seen), self._caption(source, seen))

    def _mask(self, picture: Source, data: bytes, seen: dict[str, Source]) -> np.ndarray | None:
        """None where none is wanted."""
        if self.extras.masks == "alpha":
            return decode_alpha(data, self.resolution, self.crop)
        if self.extras.masks == "off":
            return None
        source = sidecar_of(picture.url, self.sources, "mask")
        if source is None:
            raise ValueError(f"there is no mask beside it, which would be called NAME{MASKS[0]}")
        try:
            return decode_mask(self.read(source, seen, MAX_BYTES), data, self.resolution, self.crop)
        except ValueError as error:
            raise ValueError(f"its mask, {without_credentials(source.url, self.options)}: {error}") from None

    def _caption(self, picture: Source, seen: dict[str, Source]) -> str | None:
        """None for a picture that has none, and where none is wanted."""
        source = sidecar_of(picture.url, self.sources, "caption") if self.extras.captions else None
        if source is None:
            return None
        try:
            return caption_of(self.read(source, seen, MOST_CAPTION_BYTES))
        except StorageTooLargeError as error:
            raise ValueError(f"its caption: {error}") from None
        except ValueError as error:
            raise ValueError(f"its caption, {without_credentials(source.url, self.options)}: {error}") from None


def _read(source: Source, storage_options: Mapping[str, Any]) -> bytes:
    return Storage(source.url, storage_options).read_bytes(at_most=MAX_BYTES)
