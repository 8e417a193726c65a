"""Opens a picture's file safely: its pixels, upright and in 8 bits, or the reason why it cannot be read.

Of a file's metadata only the orientation, the colour profile and the declared transparency are used. All other metadata may be
broken or of any size.
"""

import io
import threading
from collections.abc import Callable

import pillow_heif
from PIL import Image, UnidentifiedImageError

from pipeline.inputs.colours import eight_bit
from pipeline.inputs.picture_metadata import upright, without_metadata

pillow_heif.register_heif_opener()
# The JPEG reader also takes MPO, what many cameras write into a .jpg: a JPEG with a second one behind it.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
READABLE = "PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF and HEIC can be read"
MAX_PIXELS, MIN_SIDE = 80_000_000, 16
MOST_ANIMATED = 40_000_000  # pixels of an animated WebP, whose decoder holds two frames with transparency
# The tags of a TIFF that say how large its tiles are, and the pixels that a tile may have whatever the picture's size.
TILE_WIDTH, TILE_LENGTH, MOST_TILE = 322, 323, 4_000_000
MOST_READS = 1_000_000  # of a picture's file
# A picture of 80 megapixels takes 320 MB decoded, and as much again while it is converted to RGB. With two at a time, a
# process takes 1.5 GB at most, however many threads load pictures.
_decoding = threading.BoundedSemaphore(2)

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


def opened(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `convert` makes of the picture, upright and in 8 bits. Raises ValueError, whose text is for the file's owner.

    At most two pictures of a process are decoded and converted at a time.
    """
    if not data:
        raise ValueError("an empty file (zero bytes)")
    with _decoding:
        image = _pixels(data)
        try:
            return convert(eight_bit(image))
        except (OSError, MemoryError) as error:  # of Pillow's own, for what it cannot convert
            raise ValueError(f"a {image.mode} picture that cannot be converted ({error})") from None


def _pixels(data: bytes) -> Image.Image:
    """The picture, loaded and upright. Raises ValueError."""
    data, kept = without_metadata(data)
    try:
        image = Image.open(_FewReads(data), formats=FORMATS)
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
        if image.format == "WEBP" and getattr(image, "is_animated", False) and width * height > MOST_ANIMATED:
            raise ValueError(f"an animation of more than {MOST_ANIMATED / 1e6:.0f} megapixels: save one picture of it")
        try:
            image.load()  # of an animation, the first frame
            if image.mode in ("P", "PA") and image.palette is None:
                raise ValueError("its colours are numbers of a palette that is not there")
            image.info.update(kept)
            return upright(image)
        except Exception as error:  # noqa: BLE001 - broken data can raise anything
            raise ValueError(f"a truncated or broken {image.format} ({error})") from None


class _FewReads(io.BytesIO):
    """A file that is left after MOST_READS: Pillow goes from part to part of a JPEG or a GIF in Python, however small they are."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise ValueError("far more parts than a picture has: save it anew")
        return super().read(size)


def decode_drawn(png: bytes) -> Image.Image:
    """A picture of a run folder, which may be a stranger's, in the one format that we write there: RGB. Raises ValueError."""
    try:
        bare, _ = without_metadata(png)
        with _decoding, Image.open(io.BytesIO(bare), formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(
                    f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels"
                )
            return picture.convert("RGB")
    except Exception as error:  # noqa: BLE001 - broken data can raise anything
        raise ValueError(f"a picture of the run folder is no PNG that can be read ({error})") from None


def decode_drawn_mask(png: bytes) -> Image.Image | None:
    """The mask of a training image in a run folder, 255 where the concept is, which is the PNG's alpha; None if it has none.

    png: one that decode_drawn reads.
    """
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        return picture.getchannel("A") if picture.mode == "RGBA" else None


def _refuse_large_tiles(image: Image.Image) -> None:
    """Raises ValueError for a TIFF whose tiles or strips, each unpacked whole, are far larger than the picture."""
    if image.format != "TIFF":
        return
    tags = image.tag_v2  # type: ignore[attr-defined]
    tile = int(tags.get(TILE_WIDTH) or image.width) * int(tags.get(TILE_LENGTH) or 1)
    if tile > max(MOST_TILE, 2 * image.width * image.height):
        raise ValueError(f"its tiles have {tile / 1e6:.0f} megapixels, more than the picture: save it anew")


def _what_it_is(data: bytes) -> str:
    """What a file that is no readable picture seems to be."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, said in SIGNATURES:
        if start.startswith(signature):
            return said
    if data[4:8] == b"ftyp" and data[8:12] not in (b"heic", b"heix", b"mif1", b"hevc", b"avif"):
        return "a video (MP4 or the like), not a picture"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL picture: convert it to JPEG or PNG"
    if data.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "a JPEG 2000 picture: convert it to JPEG or PNG"
    if data.startswith((b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")) or data[4:8] == b"ftyp":
        return "a picture whose header is broken or cut short"
    if b"\0" not in data[:1024]:
        return f"a text, not a picture; {READABLE}"
    return f"not a picture of a known kind; {READABLE}"
