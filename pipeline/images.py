"""From a concept's files to its training images: upright, on white, square, 8-bit RGB.

    concept -> find_images -> URLs -> load_images -> ImageSet

A file that cannot serve is set aside with its reason; only a concept left with too few images fails. A store that does
not answer is another matter: StorageUnavailableError goes through, lest a word be learned from half of its pictures.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.records import Concept, ImageSet, RejectedImage
from pipeline.settings import CropMode
from pipeline.storage import (
    Storage,
    StorageError,
    StorageNotFoundError,
    StorageTooLargeError,
    StorageUnavailableError,
    without_credentials,
)

# The JPEG reader also takes MPO, what many cameras write into a .jpg: a JPEG with a second one behind it.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
READABLE = "PNG, JPEG, WebP, BMP, GIF, TIFF and AVIF can be read"
MAX_BYTES, MAX_PIXELS, MIN_SIDE = 200_000_000, 80_000_000, 16
MAX_IMAGES = 1_000
SQUARE_MODES: tuple[CropMode, ...] = ("centre", "pad", "squash")
WHITE = (255, 255, 255)

SIGNATURES = (  # what stands at the beginning of files that are taken for pictures
    (b"<!doctype html", "a web page (HTML), not a picture: probably an error page saved by a download"),
    (b"<html", "a web page (HTML), not a picture: probably an error page saved by a download"),
    (b"<svg", "an SVG drawing: convert it to PNG"),
    (b"<?xml", "an XML file, not a picture: an SVG drawing, or an object store's error message saved by a download"),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself: run `git lfs pull`"),
    (b"%pdf", "a PDF: convert its pages to PNG"),
    (b"%!ps", "a PostScript file: convert it to PNG"),
    (b"pk\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"{", "a JSON text, not a picture"),
    (b"8bps", "a Photoshop file: export it as PNG"),
)


class ImageSetError(Exception):
    """A concept has fewer usable images than it needs; the message lists every file with its reason."""


def find_images(concept: Concept, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The URLs of the concept's images, sorted, each once; folders and globs expanded, hidden files left out.

    Raises ImageSetError when there are none or more than 1,000.
    """
    found: set[str] = set()
    notes: list[str] = []
    for pattern in concept.images:
        urls, note = _expand(pattern, storage_options or {})
        found.update(urls)
        notes += [note] if note else []
    if not found:
        raise ImageSetError(f"{concept.name}: no images found\n" + "\n".join(f"  {note}" for note in notes))
    if len(found) > MAX_IMAGES:
        raise ImageSetError(
            f"{concept.name}: {len(found):,} images found, at most {MAX_IMAGES:,} are taken: a word "
            "needs 3 to 5. Name some of them, or a smaller folder."
        )
    return tuple(sorted(found))


def _expand(pattern: str, options: Mapping[str, Any]) -> tuple[list[str], str]:
    """The files that one folder, glob or file name stands for; and, where they are none, a note why."""
    shown = without_credentials(pattern, options)
    try:
        place = Storage(pattern, options)
        if place.is_web:
            return [pattern], ""
        if any(sign in pattern for sign in "*?[") and not place.exists():
            fixed = pattern[: min(pattern.index(sign) for sign in "*?[" if sign in pattern)]
            urls = [url for url in place.glob() if _is_picture(url) and not _is_hidden(url[len(fixed) :])]
            return urls, f"{shown} matches no picture ({READABLE})"
        if _is_picture(pattern):
            return [place.join("")], ""
        names = place.names()
        if not names:
            is_file = place.is_file()  # one without a suffix
            return ([place.join("")], "") if is_file else ([], f"{shown}: no such file, nor a folder with files")
        pictures = [place.join(name) for name in names if _is_picture(name) and not _is_hidden(name)]
        others = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return pictures, f"{shown} holds no picture among {len(names)} files ({others}); {READABLE}"
    except StorageUnavailableError:
        raise
    except (StorageError, ValueError) as error:
        return [], str(error)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def load_images(
    urls: Sequence[str],
    resolution: int,
    crop: CropMode = "centre",
    storage_options: Mapping[str, Any] | None = None,
    minimum: int = 1,
) -> ImageSet:
    """Reads the images, in the order given; those that cannot serve are in `rejected`, each with its reason.

    resolution: R of the pixels (N, R, R, 3). crop: "centre" cuts the middle square out, "pad" adds white bars,
    "squash" changes the proportions, as the original publication's code does.
    Raises ImageSetError when fewer than `minimum` remain.
    """
    if crop not in SQUARE_MODES:
        raise ValueError(f"crop is {crop!r}; it must be one of {', '.join(SQUARE_MODES)}")
    pixels: list[np.ndarray] = []
    kept: dict[str, str] = {}  # digest -> URL
    rejected: list[RejectedImage] = []
    for url in urls:
        shown = without_credentials(url, storage_options)
        try:
            data = Storage(url, storage_options or {}).read_bytes(at_most=MAX_BYTES)
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
    if len(pixels) < minimum:
        reasons = "".join(f"\n  {image.url}: {image.reason}" for image in rejected)
        raise ImageSetError(f"{len(pixels)} of {len(urls)} images can be used, at least {minimum} needed{reasons}")
    return ImageSet(np.stack(pixels), tuple(kept.values()), tuple(kept), tuple(rejected))


def decode(data: bytes, resolution: int, crop: CropMode) -> np.ndarray:
    """One encoded picture as uint8 (R, R, 3). Raises ValueError, whose text is a reason for the file's owner."""
    if not data:
        raise ValueError("an empty file (zero bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_what_it_is(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"its header claims more than {MAX_PIXELS / 1e6:.0f} megapixels: make it smaller") from None
    except Exception as error:  # noqa: BLE001 - a broken header can raise anything
        raise ValueError(f"a broken picture ({error})") from None
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels: make it smaller")
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"{width} x {height} pixels; both sides must have at least {MIN_SIDE}")
        try:
            image.load()  # of an animation, the first frame
            upright = ImageOps.exif_transpose(image)
            opaque = _on_white(_eight_bit(upright))
        except Exception as error:  # noqa: BLE001 - broken data can raise anything
            raise ValueError(f"a truncated or broken {image.format} ({error})") from None
    return np.asarray(_squared(opaque, resolution, crop))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep greys scaled to 8 bits, where Pillow's own conversion clips them; other modes as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("negative or undefined grey values")
    # 16-bit files arrive as "I;16" or, from some writers, as "I"; floats run to 1 or, rarely, to 255.
    if image.mode.startswith("I"):
        white = 65535.0 if values.max() <= 65535 else 2.0**32 - 1
    else:
        white = 1.0 if values.max() <= 1 else max(255.0, float(values.max()))
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB")


def _squared(image: Image.Image, resolution: int, crop: CropMode) -> Image.Image:
    size, lanczos = (resolution, resolution), Image.Resampling.LANCZOS
    if crop == "centre":
        return ImageOps.fit(image, size, lanczos)
    if crop == "pad":
        return ImageOps.pad(image, size, lanczos, WHITE)
    return image.resize(size, lanczos)


def _what_it_is(data: bytes) -> str:
    """What a file that is no readable picture seems to be."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, said in SIGNATURES:
        if start.startswith(signature):
            return said
    if data[4:8] == b"ftyp":
        kind = "a HEIC picture" if data[8:12] in (b"heic", b"heix", b"mif1", b"hevc") else "a video (MP4 or the like)"
        return f"{kind}: convert it to JPEG or PNG"
    if data.startswith((b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")):
        return "a picture whose header is broken or cut short"
    if b"\0" not in data[:1024]:
        return f"a text, not a picture; {READABLE}"
    return f"not a picture of a known kind; {READABLE}"
