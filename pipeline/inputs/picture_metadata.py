"""Metadata of an encoded picture: only the orientation, the colour profile and the declared transparency are used.

Cameras and programs write nonsense into metadata, or megabytes of it. None of it may make a picture unreadable.
"""

import re
import struct
import zlib

from PIL import Image

ORIENTATION, TURNS = 0x0112, {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
MOST_EXIF, MOST_PROFILE = 1 << 20, 16 << 20  # bytes
MOST_CHUNKS = 100_000  # of a PNG; in the usual chunks of 8 kB, 800 MB
PNG, PNG_CHUNKS = b"\x89PNG\r\n\x1a\n", (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
RAW_EXIF = b"Raw profile type exif"  # as ImageMagick writes EXIF into a text of a PNG
# Pillow takes two spellings that nobody writes, and BigTIFF; one with the high bytes first it reads as if it were none.
TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II\0*": "<", b"MM*\0": ">", b"II+\0": "<", b"MM\0+": ">"}
BIG_TIFF = b"II+\0"
MOST_ENTRIES, MOST_STRIPS = 65_535, 100_000  # of a TIFF; of any list among its own entries
OWN_ENTRIES = range(254, 400)  # by tag
# Among them the lists that pixels are read by: depths, strips, colours, tiles, inner pictures, samples and their ranges.
PIXEL_LISTS = {258, 273, 279, 320, 324, 325, 330, 338, 339, 340, 341}
LISTS = (3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 16)  # the types that are read number by number
# Of a TIFF: description, make, model, software, date, artist, computer, XMP, copyright, IPTC, Photoshop's, EXIF, GPS.
TIFF_METADATA = {270, 271, 272, 305, 306, 315, 316, 700, 33432, 33723, 34377, 34665, 34853}
# The entry by which a HEIC or AVIF file says that it has EXIF. The decoder takes the orientation from another entry.
EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{3}(?:.{4}|.{6}))Exif", re.DOTALL)

# Pillow joins all EXIF of a JPEG, copying what it has for each part more. The orientation is in the first.
EXIF_SEGMENT = re.compile(rb"\xff\xe1(?=..Exif\0\0)", re.DOTALL)
COMMENT = b"\xff\xfe"


def without_metadata(data: bytes) -> tuple[bytes, dict[str, object]]:
    """(the file without metadata that could break its decoder, entries for Pillow's `info` in their place).

    Raises ValueError for a PNG or a TIFF of more parts than any has, each of which its decoder would look at.
    """
    if data.startswith(PNG):
        return _bare_png(data)
    if data.startswith(b"\xff\xd8") and (first := EXIF_SEGMENT.search(data)):
        return data[: first.end()] + EXIF_SEGMENT.sub(COMMENT, data[first.end() :]), {}
    if data[4:8] == b"ftyp":
        return EXIF_ITEM.sub(rb"\1none", data), {}
    if order := TIFF.get(data[:4]):
        return _bare_tiff(data, order), {}
    return data, {}


def upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. No other tag is looked at."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - broken metadata can raise anything, and never breaks pixels
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info.update(image.info)
    return turned


def profile_of(image: Image.Image) -> bytes:
    """The embedded colour profile; nothing where there is none, or one that is too large."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and len(profile) <= MOST_PROFILE else b""


def _bare_png(data: bytes) -> tuple[bytes, dict[str, object]]:
    """A PNG without its texts, which Pillow refuses when they are large, and what its profile and its tRNS say."""
    kept, info, at, depth, kind, count = [PNG], dict[str, object](), len(PNG), 8, 0, 0
    while at + 8 <= len(data):
        count += 1
        if count > MOST_CHUNKS:
            raise ValueError(f"a PNG of more than {MOST_CHUNKS:,} chunks: save it anew")
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        body = b"" if name == b"IDAT" else data[at + 8 : end - 4]
        if name in PNG_CHUNKS:
            kept.append(data[at:end])
        if name == b"IHDR" and len(body) >= 10:
            depth, kind = body[8], body[9]
        elif name == b"tRNS" and kind == 0 and depth in (1, 2, 4, 8, 16) and len(body) >= 2:
            grey = struct.unpack_from(">H", body)[0]  # in the file's own depth, where Pillow's pixels have 8 bits
            info["transparency"] = grey if depth >= 8 else grey * 255 // (2**depth - 1)
        elif name == b"tRNS" and kind == 2 and depth == 16 and len(body) >= 6:
            info["transparency"] = tuple(value >> 8 for value in struct.unpack_from(">3H", body))
        elif name == b"eXIf" and length <= MOST_EXIF:
            info["exif"] = b"Exif\0\0" + body
        elif name == b"tEXt" and body.startswith(RAW_EXIF + b"\0") and length <= MOST_EXIF:
            info[RAW_EXIF.decode()] = body.partition(b"\0")[2].decode("latin-1")
        elif name == b"zTXt" and body.startswith(RAW_EXIF + b"\0"):
            info[RAW_EXIF.decode()] = _inflated(body.partition(b"\0")[2][1:], MOST_EXIF).decode("latin-1")
        elif name == b"iCCP" and (profile := _inflated(body.partition(b"\0")[2][1:], MOST_PROFILE)):
            info["icc_profile"] = profile
        at = end
    return b"".join(kept), info


def _inflated(packed: bytes, most: int) -> bytes:
    """What was packed; nothing where it is broken or too large."""
    opened = zlib.decompressobj()
    try:
        whole = opened.decompress(packed, most)
    except zlib.error:
        return b""
    return whole if opened.eof else b""


def _bare_tiff(data: bytes, order: str) -> bytes:
    """A TIFF whose metadata say nothing: each entry one byte of zero, so that nothing moves. Raises ValueError."""
    bare, is_big = bytearray(data), data.startswith(BIG_TIFF)
    place, number, size = (8, "Q", 20) if is_big else (4, "I", 12)
    try:
        (at,) = struct.unpack_from(order + number, data, place)
        how_many = struct.Struct(order + ("Q" if is_big else "H"))
        (count,) = how_many.unpack_from(data, at)
        if count > MOST_ENTRIES:
            raise ValueError(f"a TIFF of more than {MOST_ENTRIES:,} entries: save it anew")
        first = at + how_many.size
        for entry in range(first, first + size * count, size):
            tag, kind, values = struct.unpack_from(f"{order}HH{number}", data, entry)
            is_long = tag in OWN_ENTRIES and kind in LISTS and values > MOST_STRIPS
            if is_long and tag in PIXEL_LISTS:
                raise ValueError(f"a TIFF of more than {MOST_STRIPS:,} strips or tiles: save it anew")
            if is_long or tag in TIFF_METADATA:
                struct.pack_into(f"{order}H2{number}", bare, entry + 2, 1, 1, 0)
    except (struct.error, OverflowError):  # cut short, which the decoder says
        return data
    return bytes(bare)
