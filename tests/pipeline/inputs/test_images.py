"""images.py: every kind of file people put into a folder of pictures, made for real and read for real."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.inputs import images
from pipeline.inputs.image_sets import ImageSetError, load_images
from pipeline.settings import CropMode

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 160, 60), (40, 60, 200), (255, 255, 255)
R = 32


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 64), colour: object = RED) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def top_red_bottom_blue(size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = picture(size=size)
    image.paste(BLUE, (0, size[1] // 2, *size))
    return image


def grey_ramp(depth: int) -> np.ndarray:
    return np.linspace(0, depth, 64).round()[None].repeat(64, 0)


def noise() -> Image.Image:
    return Image.effect_noise((128, 128), 50)


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be as large as this."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def load_one(folder: Path, data: bytes, crop: CropMode = "centre", name: str = "a.jpg") -> np.ndarray:
    (folder / name).write_bytes(data)
    return load_images([str(folder / name)], R, crop).pixels[0]


def near(pixel: np.ndarray, colour: tuple[int, int, int], by: int = 12) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= by)


PLAIN: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(picture()),
    "JPEG": lambda: encoded(picture(), "JPEG", quality=95),
    "WebP": lambda: encoded(picture(), "WEBP", lossless=True),
    "BMP": lambda: encoded(picture(), "BMP"),
    "TIFF": lambda: encoded(picture(), "TIFF"),
    "AVIF": lambda: encoded(picture(), "AVIF", quality=95),
    "HEIC": lambda: encoded(picture(), "HEIF", quality=95),
    "palette": lambda: encoded(picture().quantize(4)),
    "GIF": lambda: encoded(picture(), "GIF"),
    "CMYK JPEG": lambda: encoded(picture("CMYK", colour=(0, 220, 220, 35)), "JPEG", quality=95),
    "opaque alpha": lambda: encoded(picture("RGBA", colour=(*RED, 255))),
    "animated GIF, first frame": lambda: encoded(picture(), "GIF", save_all=True, append_images=[picture(colour=BLUE)]),
    "animated WebP, first frame": lambda: encoded(
        picture(), "WEBP", lossless=True, save_all=True, append_images=[picture(colour=BLUE)]
    ),
    "MPO of a camera, first picture": lambda: encoded(
        picture(), "MPO", quality=95, save_all=True, append_images=[picture(colour=BLUE)]
    ),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_every_format_gives_the_same_red_square(kind: str, tmp_path: Path) -> None:
    pixels = load_one(tmp_path, PLAIN[kind]())
    assert pixels.shape == (R, R, 3)
    assert pixels.dtype == np.uint8
    assert near(pixels.reshape(-1, 3).mean(0), RED)


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    pixels = load_one(tmp_path, encoded(picture("RGBA", colour=(0, 0, 0, 128))))
    assert near(pixels[0, 0], (127, 127, 127), by=1)


DEEP: dict[str, Callable[[], bytes]] = {
    "16-bit PNG": lambda: encoded(Image.fromarray(grey_ramp(65535).astype(np.uint16))),
    "16-bit TIFF": lambda: encoded(Image.fromarray(grey_ramp(65535).astype(np.uint16)), "TIFF"),
    "32-bit TIFF of 16-bit values": lambda: encoded(Image.fromarray(grey_ramp(65535).astype(np.int32)), "TIFF"),
    "float TIFF": lambda: encoded(Image.fromarray((grey_ramp(1000) / 1000).astype(np.float32)), "TIFF"),
    "8-bit PNG": lambda: encoded(Image.fromarray(grey_ramp(255).astype(np.uint8))),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_greys_keep_their_range(kind: str, tmp_path: Path) -> None:
    row = load_one(tmp_path, DEEP[kind]())[0, :, 0].astype(int)
    assert row[0] <= 6
    assert row[-1] >= 249
    assert abs(row[R // 2] - 128) <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stored_sideways_stand_upright(orientation: int, tmp_path: Path) -> None:
    turns = Image.Transpose
    stored = {1: None, 2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
              6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270}[orientation]  # fmt: skip
    image, exif = top_red_bottom_blue(), Image.Exif()
    exif[0x0112] = orientation
    turned = image if stored is None else image.transpose(stored)
    pixels = load_one(tmp_path, encoded(turned, "JPEG", exif=exif, quality=95, subsampling=0))
    assert near(pixels[4, R // 2], RED)
    assert near(pixels[-4, R // 2], BLUE)


def test_the_three_ways_to_a_square(tmp_path: Path) -> None:
    wide = picture(size=(128, 64), colour=GREEN)
    wide.paste(RED, (0, 0, 32, 64))
    wide.paste(BLUE, (96, 0, 128, 64))
    data = encoded(wide)
    centre, pad, squash = (load_one(tmp_path, data, crop) for crop in images.SQUARE_MODES)
    assert near(centre[R // 2, 2], GREEN)
    assert near(centre[R // 2, -3], GREEN)
    assert near(pad[2, R // 2], WHITE)
    assert near(pad[-3, R // 2], WHITE)
    assert near(pad[R // 2, 2], RED)
    assert near(pad[R // 2, R // 2], GREEN)
    assert near(squash[2, 2], RED)
    assert near(squash[-3, -3], BLUE)
    assert near(squash[2, R // 2], GREEN)


def test_shrinking_blends_fine_detail_instead_of_skipping_it(tmp_path: Path) -> None:
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    assert near(load_one(tmp_path, encoded(Image.fromarray(checks)))[8, 8], (128, 128, 128), by=6)


def test_an_unknown_way_to_a_square_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crop is 'stretch'; it must be one of centre, pad, squash"):
        load_images([], R, "stretch")  # type: ignore[arg-type]


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "an empty file"),
    "truncated JPEG": (lambda: encoded(noise(), "JPEG")[:2000], "a truncated or broken JPEG"),
    "truncated PNG": (lambda: encoded(noise())[:3000], "a truncated or broken PNG"),
    "truncated WebP": (lambda: encoded(picture(), "WEBP")[:40], "broken"),
    "cut in the header": (lambda: encoded(picture())[:12], "a picture whose header is broken or cut short"),
    "one pixel": (lambda: encoded(picture(size=(1, 1))), "1 x 1 pixels; both sides must have at least 16"),
    "a line": (lambda: encoded(picture(size=(500, 3))), "500 x 3 pixels"),
    "header bomb": (lambda: png_header(20_000, 20_000), "its header claims more than 80 megapixels"),
    "large but no bomb": (lambda: png_header(9_300, 9_300), "9300 x 9300 pixels, more than 80 megapixels"),
    "web page": (lambda: b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>403</body>", r"a web page \(HTML\), not a picture"),
    "store's error": (lambda: b'<?xml version="1.0"?><Error>', "an object store's error message"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing: convert it to PNG"),
    "LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run `git lfs pull`"),
    "PDF": (lambda: b"%PDF-1.7\n", "a PDF"),
    "ZIP": (lambda: b"PK\x03\x04" + bytes(40), "a ZIP archive"),
    "gzip": (lambda: b"\x1f\x8b" + bytes(40), "a gzip archive"),
    "JSON": (lambda: b'{"error": "not found"}', "a JSON text"),
    "broken HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(40), "broken"),
    "JPEG XL": (lambda: b"\xff\x0a" + bytes(40), "a JPEG XL picture: convert it"),
    "JPEG XL in boxes": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a JPEG XL picture: convert it"),
    "JPEG 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "a JPEG 2000 picture: convert it"),
    "video": (lambda: b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
    "text": (lambda: b"Not Found", "a text, not a picture; PNG, JPEG"),
    "noise": (lambda: bytes(range(256)), "not a picture of a known kind"),
    "PostScript, which Pillow would run": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "negative greys": (lambda: encoded(Image.fromarray(grey_ramp(9).astype("i4") - 5), "TIFF"), "negative grey values"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_serve_is_set_aside_with_its_reason(kind: str, tmp_path: Path) -> None:
    make, said = BAD[kind]
    (tmp_path / "bad.jpg").write_bytes(make())
    (tmp_path / "good.png").write_bytes(encoded(picture()))
    loaded = load_images([str(tmp_path / "bad.jpg"), str(tmp_path / "good.png")], R)
    assert loaded.urls == (str(tmp_path / "good.png"),)
    assert loaded.pixels.shape == (1, R, R, 3)
    (rejected,) = loaded.rejected
    assert rejected.url == str(tmp_path / "bad.jpg")
    with pytest.raises(ImageSetError, match=f"0 of 1 images can be used, at least 1 needed\n  .*bad.jpg: .*{said}"):
        load_images([rejected.url], R)
