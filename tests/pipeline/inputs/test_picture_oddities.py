"""What stands around the pixels, in each container that carries it: orientation and profile count, and nothing breaks pixels."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.inputs.images import decode
from tests.pipeline.inputs.test_images import BLUE, RED, encoded, near, top_red_bottom_blue
from tests.pipeline.inputs.test_picture_metadata import chunk as png_chunk

R = 32
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CHANGES = 60  # of each container's metadata
SIDEWAYS = 6
# Of a TIFF, the tags that say how its pixels lie in the file.
PIXEL_TAGS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 339)


def exif(orientation: int = 1) -> bytes:
    """Many tags of all kinds, the orientation among them."""
    made = Image.Exif()
    made[0x0112], made[0x010F], made[0x011A], made[0x0128], made[0x0131] = orientation, "make", 72.0, 2, "program"
    made.get_ifd(0x8769).update({0x829D: 2.8, 0x9003: "2020:01:01 00:00:00"})
    made.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    return made.tobytes()


def tiff_exif(order: str, entries: bytes) -> bytes:
    """EXIF of one folder: entries of twelve bytes each."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, len(entries) // 12) + entries + bytes(4)


def swapped(profile: bytes) -> bytes:
    """The profile with its red and blue primaries changed for each other."""
    made, tags = bytearray(profile), {}
    for place in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        tags[profile[place : place + 4]] = place
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    made[red + 4 : red + 12], made[blue + 4 : blue + 12] = profile[blue + 4 : blue + 12], profile[red + 4 : red + 12]
    return bytes(made)


def whole(form: str) -> bytes:
    options: dict[str, dict[str, object]] = {
        "JPEG": {"quality": 95},
        "AVIF": {"quality": 95},
        "HEIF": {"quality": 95},
        "WEBP": {"lossless": True},
    }
    return encoded(top_red_bottom_blue(), form, exif=exif(), icc_profile=SRGB, **options.get(form, {}))


def places(form: str, data: bytes) -> list[int]:
    """Where the metadata's bytes lie."""
    found: list[int] = []
    for part in (exif().removeprefix(b"Exif\0\0"), SRGB):
        at = data.find(part)
        found += range(at, at + len(part)) if at >= 0 else []
    if form == "TIFF":
        (at,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            if struct.unpack_from("<H", data, entry)[0] not in PIXEL_TAGS:
                found += range(entry + 2, entry + 12)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_nonsense_in_metadata_refuses_no_picture(form: str) -> None:
    data, draw = whole(form), np.random.default_rng(0)
    within = places(form, data)
    assert within
    for _ in range(CHANGES):
        changed = bytearray(data)
        for place in draw.choice(within, draw.choice([1, 2, 8, 40])):
            changed[place] = draw.integers(256)
        assert decode(bytes(changed), R, "centre").shape == (R, R, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_is_obeyed_beside_broken_tags(form: str, order: str) -> None:
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, SIDEWAYS, 0)
    beside = struct.pack(f"{order}HHII", 0x0128, 5, 1, 0xFFFF), struct.pack(f"{order}HHII", 0x8769, 4, 1, 0xFFFFFF)
    data = encoded(top_red_bottom_blue(), form, exif=tiff_exif(order, entry + b"".join(beside)))
    assert near(decode(data, R, "centre")[R // 2, 4], BLUE, by=20)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_means_nothing_leaves_the_picture(value: int) -> None:
    data = encoded(top_red_bottom_blue(), "JPEG", exif=exif(value), quality=95)
    assert near(decode(data, R, "centre")[4, R // 2], RED)


def png_with(*chunks: bytes, behind: bool = False) -> bytes:
    plain = encoded(top_red_bottom_blue())
    at = len(plain) - 12 if behind else 33
    return plain[:at] + b"".join(chunks) + plain[at:]


LARGE: dict[str, bytes] = {
    "zTXt": png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2_000_000))),
    "iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(1_500_000)),
    "packed iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(1_500_000))),
    "tEXt": png_chunk(b"tEXt", b"prompt\0" + b"a" * 3_000_000),
    "iCCP": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(SRGB + bytes(1_200_000))),
    "broken iCCP": png_chunk(b"iCCP", b"profile\0\0" + b"nonsense"),
    "iCCP of 100 MB": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(100_000_000))),
    "eXIf": png_chunk(b"eXIf", bytes(2_000_000)),
    "many": png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(900_000))) * 100,
}


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("kind", LARGE)
def test_large_texts_and_profiles_refuse_no_png(kind: str, behind: bool) -> None:
    pixels = decode(png_with(LARGE[kind], behind=behind), R, "centre")
    assert near(pixels[4, R // 2], RED)
    assert near(pixels[-4, R // 2], BLUE)


def test_exif_in_a_text_of_a_png_turns_it() -> None:
    told = exif(SIDEWAYS)
    text = f"\nexif\n{len(told):8}\n{told.hex()}\n".encode()
    plain = png_chunk(b"tEXt", b"Raw profile type exif\0" + text)
    packed = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    for chunk in (plain, packed):
        assert near(decode(png_with(chunk), R, "centre")[R // 2, 4], BLUE)


PROFILED: dict[str, Callable[[bytes], bytes]] = {
    "PNG": lambda icc: encoded(top_red_bottom_blue(), icc_profile=icc),
    "PNG with alpha": lambda icc: encoded(top_red_bottom_blue().convert("RGBA"), icc_profile=icc),
    "palette": lambda icc: encoded(top_red_bottom_blue().quantize(4), icc_profile=icc),
    "JPEG": lambda icc: encoded(top_red_bottom_blue(), "JPEG", quality=95, icc_profile=icc),
    "WebP": lambda icc: encoded(top_red_bottom_blue(), "WEBP", lossless=True, icc_profile=icc),
    "TIFF": lambda icc: encoded(top_red_bottom_blue(), "TIFF", icc_profile=icc),
    "AVIF": lambda icc: encoded(top_red_bottom_blue(), "AVIF", quality=95, icc_profile=icc),
    "HEIC": lambda icc: encoded(top_red_bottom_blue(), "HEIF", quality=95, icc_profile=icc),
}


@pytest.mark.parametrize("kind", PROFILED)
def test_an_embedded_profile_is_applied(kind: str) -> None:
    red, green, blue = RED
    pixels = decode(PROFILED[kind](swapped(SRGB)), R, "centre")
    assert near(pixels[4, R // 2], (blue, green, red), by=16)


@pytest.mark.parametrize("profile", [SRGB[:200], b"nonsense" * 40, SRGB[:16] + b"GRAY" + SRGB[20:]])
@pytest.mark.parametrize("kind", PROFILED)
def test_a_profile_that_cannot_be_used_is_passed_over(kind: str, profile: bytes) -> None:
    assert near(decode(PROFILED[kind](profile), R, "centre")[4, R // 2], RED, by=16)


def test_a_profile_of_greys_is_applied_to_greys() -> None:
    linear = grey_profile()
    data = encoded(Image.new("L", (64, 64), 55), icc_profile=linear)
    # 55 of 255 by a straight curve is 0.216 of white's light, which sRGB writes as 128.
    assert near(decode(data, R, "centre")[4, 4], (128, 128, 128), by=3)


def grey_profile() -> bytes:
    """ICC version 2, of one channel with a straight curve."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(each * 65536) for each in (0.9642, 1.0, 0.8249)))
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"g\0" + bytes(78)
    bodies, at, table, packed = {b"wtpt": white, b"kTRC": curve, b"desc": text}, 128 + 4 + 36, b"", io.BytesIO()
    for name, body in bodies.items():
        table += name + struct.pack(">II", at + packed.tell(), len(body))
        packed.write(body + bytes(-len(body) % 4))
    size = at + packed.tell()
    header = struct.pack(">I", size) + b"lcms" + b"\x02\x10\0\0" + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(each * 65536) for each in (0.9642, 1.0, 0.8249))) + bytes(48)
    return header + struct.pack(">I", len(bodies)) + table + packed.getvalue()


def test_a_picture_of_a_palette_that_is_not_there_is_refused() -> None:
    """Catches the library's assertion about it, which ended the run."""
    paletted = io.BytesIO()
    Image.new("P", (R, R)).save(paletted, "PNG")
    with pytest.raises(ValueError, match="palette that is not there"):
        decode(paletted.getvalue().replace(b"PLTE", b"pLTE"), R, "centre")
