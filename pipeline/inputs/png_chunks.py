"""A PNG without its texts and other chunks that no pixel needs: Pillow refuses a picture whose texts are large."""

import struct
import zlib

from pipeline.inputs.colours import MOST_PROFILE

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
MOST_EXIF = 1 << 20  # bytes


def is_png(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def bare_png(data: bytes) -> tuple[bytes, dict[str, object]]:
    """(the PNG without texts, what Pillow is told in their place: `icc_profile`, and `transparency` where Pillow gets it wrong)."""
    kept, info, at, depth, kind = [SIGNATURE], dict[str, object](), len(SIGNATURE), 8, 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body, end = data[at + 8 : at + 8 + length], at + 12 + length
        if name in KEPT or (name == b"eXIf" and length <= MOST_EXIF):
            kept.append(data[at:end])
        if name == b"IHDR" and len(body) >= 10:
            depth, kind = body[8], body[9]
        elif name == b"tRNS" and kind == 0 and depth in (1, 2, 4, 8, 16) and len(body) >= 2:
            grey = struct.unpack_from(">H", body)[0]  # in the file's own depth, where Pillow's pixels have 8 bits
            info["transparency"] = grey if depth >= 8 else grey * 255 // (2**depth - 1)
        elif name == b"tRNS" and kind == 2 and depth == 16 and len(body) >= 6:
            info["transparency"] = tuple(value >> 8 for value in struct.unpack_from(">3H", body))
        elif name == b"iCCP" and (profile := _inflated(body.partition(b"\0")[2][1:])):
            info["icc_profile"] = profile
        at = end
    return b"".join(kept), info


def _inflated(packed: bytes) -> bytes:
    """A packed profile; nothing where it is broken or too large."""
    opened = zlib.decompressobj()
    try:
        profile = opened.decompress(packed, MOST_PROFILE)
    except zlib.error:
        return b""
    return profile if opened.eof else b""
