"""What a picture's file holds beside its pixels: obeyed where it says how they are to be seen, and never in their way."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.inputs.images import decode, decode_alpha, decode_mask

RED, BLUE = (220, 30, 30), (40, 60, 200)
R = 32
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF")
SAVED: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}, "HEIF": {"quality": 95},
}  # fmt: skip


def red_over_blue(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (64, 64), RED)
    image.paste(BLUE, (0, 32, 64, 64))
    return image.convert(mode)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **{**SAVED.get(form, {}), **options})
    return buffer.getvalue()


def near(pixel: np.ndarray, colour: object, by: int = 12) -> bool:
    return bool(np.abs(pixel.astype(int) - np.asarray(colour)).max() <= by)


def top_and_bottom(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    seen = decode(data, R, "centre")
    return seen[4, 16], seen[-4, 16]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(png: bytes, name: bytes, body: bytes, *, after_the_pixels: bool = False) -> bytes:
    at = png.index(b"IEND") - 4 if after_the_pixels else 33
    return png[:at] + chunk(name, body) + png[at:]


def exif(entries: list[tuple[int, int, int, bytes]], order: str = "<") -> bytes:
    """tag, type, count, value or offset (4 bytes)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    rows = b"".join(struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries)) + rows + bytes(4)


def sideways(order: str) -> tuple[int, int, int, bytes]:
    return (0x0112, 3, 1, struct.pack(order + "HH", 6, 0))


NONSENSE: dict[str, Callable[[str], tuple[int, int, int, bytes]]] = {
    "a value beyond the end": lambda order: (0x010E, 2, 400, struct.pack(order + "I", 60_000)),
    "a count of billions": lambda order: (0x010F, 7, 2**31 - 1, struct.pack(order + "I", 8)),
    "a type that is none": lambda order: (0x0110, 99, 1, bytes(4)),
    "a rational where a number belongs": lambda order: (0x0100, 5, 1, struct.pack(order + "I", 8)),
    "an EXIF folder beyond the end": lambda order: (0x8769, 4, 1, struct.pack(order + "I", 1 << 30)),
    "an EXIF folder that is itself": lambda order: (0x8769, 4, 1, struct.pack(order + "I", 8)),
    "a GPS folder that is text": lambda order: (0x8825, 2, 4, b"gps\0"),
    "text in place of a unit": lambda order: (0x0128, 2, 4, b"cm?\0"),
}


@pytest.mark.filterwarnings("ignore:Tag data larger than file:UserWarning")  # Pillow skips the tag and says so
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_nonsense_in_exif_costs_neither_the_picture_nor_its_orientation(form: str, nonsense: str, order: str) -> None:
    entries = sorted([sideways(order), NONSENSE[nonsense](order)])
    data = encoded(red_over_blue(), form, exif=exif(entries, order))
    left = decode(data, R, "centre")[16, 4]
    assert near(left, BLUE)  # turned by a quarter, the bottom is on the left


@pytest.mark.parametrize("broken", [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0" + bytes(range(200)), b"\xff" * 500])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_that_is_none_leaves_the_picture_as_it_is(form: str, broken: bytes) -> None:
    top, bottom = top_and_bottom(encoded(red_over_blue(), form, exif=broken))
    assert near(top, RED)
    assert near(bottom, BLUE)


@pytest.mark.parametrize("value", [0, 9, 200])
def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(value: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = value
    assert near(top_and_bottom(encoded(red_over_blue(), "JPEG", exif=tags))[0], RED)


LARGE = zlib.compress(b"a workflow " * 300_000)
TEXTS = {
    "zTXt": (b"zTXt", b"workflow\0\0" + LARGE),
    "iTXt, packed": (b"iTXt", b"workflow\0\1\0\0\0" + LARGE),
    "iTXt, plain": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x:xmpmeta>" * 200_000),
    "tEXt": (b"tEXt", b"workflow\0" + b"node " * 500_000),
    "a profile that is no profile": (b"iCCP", b"name\0\0" + LARGE),
    "an unknown chunk": (b"prVt", b"\0" * 2_000_000),
}


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize("times", [1, 40])
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_any_size_in_a_png_cost_nothing(kind: str, times: int, *, after: bool) -> None:
    data = encoded(red_over_blue(), "PNG")
    for _ in range(times if len(TEXTS[kind][1]) < 100_000 else 1):
        data = with_chunk(data, *TEXTS[kind], after_the_pixels=after)
    top, bottom = top_and_bottom(data)
    assert near(top, RED, 1)
    assert near(bottom, BLUE, 1)


def test_large_metadata_in_a_jpeg_costs_nothing() -> None:
    data = encoded(red_over_blue(), "JPEG", xmp=b"<x:xmpmeta>" * 5_000, comment=b"c" * 60_000)
    assert near(top_and_bottom(data)[0], RED)


def fixed(values: tuple[float, ...]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 with what lcms asks of every one, and these tags."""
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249)), **tags}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(4 + 4 + 2 + 1 + 67)
    tags[b"cprt"] = b"text\0\0\0\0none\0"
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", at, len(content))
        body, at = body + padded, at + len(padded)
    head = struct.pack(">I4sI4s4s4s", at, b"lcms", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249)) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + fixed(values)


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def primaries(red: tuple[float, float, float], blue: tuple[float, float, float]) -> bytes:
    """An RGB profile with the gamma of 2.2, these primaries (XYZ under D50) and sRGB's green."""
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2))
    return profile(b"RGB ", {b"rXYZ": xyz(red), b"gXYZ": xyz((0.3851, 0.7169, 0.0971)), b"bXYZ": xyz(blue), **curves})


SRGB_RED, SRGB_BLUE = (0.4361, 0.2225, 0.0139), (0.1431, 0.0606, 0.7141)
SWAPPED = primaries(SRGB_BLUE, SRGB_RED)
LINEAR_GREY = profile(b"GRAY", {b"kTRC": gamma(1.0)})


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_embedded_profile_is_applied(form: str, mode: str) -> None:
    """A profile under which red and blue change places: what its numbers call red is blue."""
    if form == "JPEG" and mode == "RGBA":
        mode = "RGB"
    top, bottom = top_and_bottom(encoded(red_over_blue(mode), form, icc_profile=SWAPPED))
    assert near(top, RED[::-1], 20)
    assert near(bottom, BLUE[::-1], 20)


def test_a_palettes_profile_is_applied() -> None:
    top, _ = top_and_bottom(encoded(red_over_blue().quantize(8), "PNG", icc_profile=SWAPPED))
    assert near(top, RED[::-1], 20)


def test_greys_are_brought_to_srgb_by_a_grey_profile() -> None:
    """A linear profile: half of the light is 188 of 255 in sRGB."""
    half = Image.new("L", (64, 64), 128)
    for form in ("PNG", "JPEG", "TIFF"):
        assert near(decode(encoded(half, form, icc_profile=LINEAR_GREY), R, "centre")[16, 16], (188, 188, 188), 4)


def test_a_profile_for_other_colours_than_the_pictures_is_passed_over() -> None:
    ink = red_over_blue("CMYK")
    marked, plain = (encoded(ink, "JPEG", **more) for more in ({"icc_profile": SWAPPED}, {}))
    assert np.array_equal(decode(marked, R, "centre"), decode(plain, R, "centre"))
    marked, plain = (encoded(red_over_blue(), "PNG", **more) for more in ({"icc_profile": LINEAR_GREY}, {}))
    assert np.array_equal(decode(marked, R, "centre"), decode(plain, R, "centre"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("broken", [b"no profile", SWAPPED[:200], bytes(128), SWAPPED.replace(b"RGB ", b"Lab ")])
def test_a_profile_that_cannot_be_used_leaves_the_numbers_as_they_are(form: str, broken: bytes) -> None:
    top, bottom = top_and_bottom(encoded(red_over_blue(), form, icc_profile=broken))
    assert near(top, RED)
    assert near(bottom, BLUE)


def test_an_srgb_profile_changes_no_value_by_more_than_rounding() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain, marked = (encoded(red_over_blue(), "PNG", **more) for more in ({}, {"icc_profile": srgb}))
    difference = decode(plain, R, "centre").astype(int) - decode(marked, R, "centre")
    assert np.abs(difference).max() <= 1


def ramp(low: float, high: float, dtype: type) -> Image.Image:
    return Image.fromarray(np.linspace(low, high, 64)[None].repeat(64, 0).astype(dtype))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "middle"),
    [
        (0, 1.02, np.float32, 130),
        (0, 1, np.float32, 127),
        (-0.0, 260, np.float32, 130),
        (0, 255, np.int32, 127),
        (0, 65535, np.int32, 127),
    ],
)
def test_deep_greys_are_neither_black_nor_white_unsaid(low: float, high: float, dtype: type, middle: int) -> None:
    seen = decode(encoded(ramp(low, high, dtype), "TIFF"), R, "centre")
    assert abs(int(seen[16, 16, 0]) - middle) < 8
    assert seen[16, 1, 0] < 20
    assert seen[16, -2, 0] > 235


def png_of(kind: int, depth: int, rows: bytes, clear: bytes, palette: bytes = b"", side: int = 16) -> bytes:
    """A PNG of one value everywhere. rows: one row's bytes."""
    header = struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + (chunk(b"PLTE", palette) if palette else b"") + chunk(b"tRNS", clear)
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress((b"\0" + rows) * side)) + chunk(b"IEND", b"")


HALF_CLEAR: dict[
    str, tuple[int, int, bytes, bytes, bytes]
] = {  # the left half has the value that is declared transparent, the right half is mid-grey
    "grey, 16 bits": (0, 16, b"\0\0" * 8 + b"\x80\0" * 8, b"\0\0", b""),
    "grey, 8 bits": (0, 8, b"\0" * 8 + b"\x80" * 8, b"\0\0", b""),
    "grey, 4 bits": (0, 4, b"\0" * 4 + b"\x88" * 4, b"\0\0", b""),
    "colour, 8 bits": (2, 8, b"\0\0\0" * 8 + b"\x80\x80\x80" * 8, bytes(6), b""),
    "colour, 16 bits": (2, 16, bytes(6) * 8 + b"\x80\0\x80\0\x80\0" * 8, bytes(6), b""),
    "palette": (3, 8, b"\0" * 8 + b"\1" * 8, b"\0\xff", b"\0\0\0\x80\x80\x80"),
}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_what_is_transparent_is_white(form: str, mode: str) -> None:
    image = red_over_blue("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    seen = decode(encoded(image.convert(mode) if form == "PNG" else image, form), R, "centre")
    assert near(seen[16, 4], (255, 255, 255))
    assert not near(seen[4, 28], (255, 255, 255), 30)


@pytest.mark.parametrize("kind", HALF_CLEAR)
def test_what_is_declared_transparent_is_white(kind: str) -> None:
    seen = decode(png_of(*HALF_CLEAR[kind]), 16, "centre")
    assert near(seen[8, 2], (255, 255, 255), 1)
    assert near(seen[8, 13], (128, 128, 128), 9)


CLEAR = {
    "RGBA": lambda: encoded(Image.new("RGBA", (64, 64), (*RED, 0)), "PNG"),
    "RGBA in WebP": lambda: encoded(Image.new("RGBA", (64, 64), (*RED, 0)), "WEBP"),
    "grey with alpha": lambda: encoded(Image.new("LA", (64, 64), (90, 0)), "PNG"),
    "palette": lambda: png_of(3, 8, b"\0" * 16, b"\0", b"\x20\x40\x60"),
    "declared grey": lambda: png_of(0, 16, b"\x12\x34" * 16, b"\x12\x34"),
    "declared colour": lambda: png_of(2, 8, b"\x01\x02\x03" * 16, b"\0\x01\0\x02\0\x03"),
    "GIF": lambda: encoded(Image.new("P", (64, 64), 0), "GIF", transparency=0),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_a_picture_that_shows_nothing_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="transparent everywhere"):
        decode(CLEAR[kind](), R, "centre")


def test_masks_and_transparency_go_through_the_same_reader() -> None:
    mask = with_chunk(encoded(Image.new("L", (64, 64), 255), "PNG"), *TEXTS["zTXt"])
    picture = encoded(red_over_blue(), "JPEG", exif=b"\xff" * 500)
    assert decode_mask(mask, picture, R, "centre").min() == 255
    half = red_over_blue("RGBA")
    half.putalpha(Image.linear_gradient("L").resize((64, 64)))
    assert decode_alpha(with_chunk(encoded(half, "PNG"), *TEXTS["zTXt"]), R, "centre").max() > 200
