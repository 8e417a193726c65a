"""One encoded picture, whatever it is, as pixels: upright, on white, square, 8-bit RGB; or the reason why it cannot serve."""

import io
import threading
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.settings import CropMode

# The JPEG reader also takes MPO, what many cameras write into a .jpg: a JPEG with a second one behind it.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
READABLE = "PNG, JPEG, WebP, BMP, GIF, TIFF and AVIF can be read"
MAX_PIXELS, MIN_SIDE = 80_000_000, 16
SQUARE_MODES: tuple[CropMode, ...] = ("centre", "pad", "squash")
WHITE = (255, 255, 255)
BAND = 256  # rows
# The tags of a TIFF that say how large its tiles are, and the pixels that a tile may have whatever the picture's size.
TILE_WIDTH, TILE_LENGTH, MOST_TILE = 322, 323, 4_000_000
# A picture of 80 megapixels takes 320 MB unpacked, and once more as much while it is brought to RGB: however many threads of
# a process load pictures, they take 1.5 GB at most.
_unpacking = threading.BoundedSemaphore(2)

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


def decode(data: bytes, resolution: int, crop: CropMode) -> np.ndarray:
    """One encoded picture as uint8 (R, R, 3). Raises ValueError, whose text is a reason for the file's owner."""
    return np.asarray(_squared(_opened(data, _on_white), resolution, crop))


def decode_alpha(data: bytes, resolution: int, crop: CropMode) -> np.ndarray:
    """How opaque the picture is, uint8 (R, R), the bars around a padded one not at all. Raises ValueError as `decode` does,
    and for a picture that is opaque everywhere or nowhere.
    """
    alpha = _opened(data, lambda image: image.convert("RGBA").getchannel("A"))
    if alpha.getextrema()[0] == 255:
        raise ValueError("it is opaque everywhere, so its transparency does not show what to learn")
    return _mask(alpha, resolution, crop, "its transparency")


def decode_mask(data: bytes, picture: bytes, resolution: int, crop: CropMode) -> np.ndarray:
    """A mask beside its picture, white where the concept is, cut as the picture is: uint8 (R, R).

    Raises ValueError as `decode` does, and for a mask of other proportions than its picture, or without a white place.
    """
    mask, (width, height) = _opened(data, lambda image: _on_white(image).convert("L")), _opened(picture, _on_white).size
    if abs(mask.width * height - mask.height * width) > 0.02 * mask.width * height:
        raise ValueError(f"{mask.width} x {mask.height} pixels, which are not the proportions of {width} x {height}")
    return _mask(mask.resize((width, height), Image.Resampling.BILINEAR), resolution, crop, "the mask")


def decode_drawn(png: bytes) -> Image.Image:
    """A picture of a run folder, which may be a stranger's, in the one format that we write there: RGB. Raises ValueError."""
    try:
        with _unpacking, Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(
                    f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels"
                )
            return picture.convert("RGB")
    except Exception as error:  # noqa: BLE001 - broken data can raise anything
        raise ValueError(f"a picture of the run folder is no PNG that can be read ({error})") from None


def _mask(mask: Image.Image, resolution: int, crop: CropMode, name: str) -> np.ndarray:
    values = np.asarray(_squared(mask, resolution, crop, bars=0))
    if not values.any():
        raise ValueError(f"{name} leaves nothing of the picture to learn from")
    return values


def _opened(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Upright. Raises ValueError."""
    if not data:
        raise ValueError("an empty file (zero bytes)")
    with _unpacking:
        return _unpacked(data, convert)


def _unpacked(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
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
        _refuse_large_tiles(image)
        try:
            image.load()  # of an animation, the first frame
            ImageOps.exif_transpose(image, in_place=True)  # a copy would be as large as the picture
            return convert(_eight_bit(image))
        except Exception as error:  # noqa: BLE001 - broken data can raise anything
            raise ValueError(f"a truncated or broken {image.format} ({error})") from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep greys scaled to 8 bits, where Pillow's own conversion clips them; other modes as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    highest = 0.0
    for band in _bands(image):
        values = np.asarray(band)
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError("negative or undefined grey values")
        highest = max(highest, float(values.max()))
    # 16-bit files arrive as "I;16" or, from some writers, as "I"; floats run to 1 or, rarely, to 255.
    if image.mode.startswith("I"):
        white = 65535.0 if highest <= 65535 else 2.0**32 - 1
    else:
        white = 1.0 if highest <= 1 else max(255.0, highest)
    grey = [np.round(np.asarray(band).astype(np.float64) * (255 / white)).astype(np.uint8) for band in _bands(image)]
    return Image.fromarray(np.concatenate(grey))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    made = Image.new("RGB", image.size)
    for top, band in zip(range(0, image.height, BAND), _bands(image), strict=True):
        layer = band.convert("RGBA")
        made.paste(Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB"), (0, top))
    return made


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    """The picture from top to bottom, some rows at a time: what is worked on then takes little beside the picture."""
    for top in range(0, image.height, BAND):
        yield image.crop((0, top, image.width, min(top + BAND, image.height)))


def _refuse_large_tiles(image: Image.Image) -> None:
    """Raises ValueError for a TIFF whose tiles or strips, each unpacked whole, are far larger than the picture."""
    if image.format != "TIFF":
        return
    tags = image.tag_v2  # type: ignore[attr-defined]
    tile = int(tags.get(TILE_WIDTH) or image.width) * int(tags.get(TILE_LENGTH) or 1)
    if tile > max(MOST_TILE, 2 * image.width * image.height):
        raise ValueError(f"its tiles have {tile / 1e6:.0f} megapixels, more than the picture: save it anew")


def _squared(
    image: Image.Image, resolution: int, crop: CropMode, bars: int | tuple[int, int, int] = WHITE
) -> Image.Image:
    size, lanczos = (resolution, resolution), Image.Resampling.LANCZOS
    if crop == "centre":
        return ImageOps.fit(image, size, lanczos)
    if crop == "pad":
        return ImageOps.pad(image, size, lanczos, bars)
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
