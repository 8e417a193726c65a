"""Colours as they are meant to be seen: deep greys in 8 bits, embedded profiles applied, transparency on white."""

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

WHITE = (255, 255, 255)
BAND = 256  # rows
MOST_PROFILE = 16 << 20  # bytes


def eight_bit(image: Image.Image) -> Image.Image:
    """Deep greys scaled to 8 bits, where Pillow's own conversion clips them; other modes as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    highest = 0.0
    for band in _bands(image):
        values = np.asarray(band)
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError("negative or undefined grey values")
        highest = max(highest, float(values.max()))
    # 16-bit files arrive as "I;16" or, from some writers, as "I"; floats run to 1 or, rarely, to 255, and a little over.
    if image.mode.startswith("I"):
        white = 255.0 if image.mode == "I" and highest <= 255 else 65535.0 if highest <= 65535 else 2.0**32 - 1
    else:
        white = 1.0 if highest < 16 else 255.0 if highest < 300 else highest
    grey = [
        np.round(np.clip(np.asarray(band).astype(np.float64) / white, 0, 1) * 255).astype(np.uint8)
        for band in _bands(image)
    ]
    made = Image.fromarray(np.concatenate(grey))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        made.putalpha(Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)))
    if "icc_profile" in image.info:
        made.info["icc_profile"] = image.info["icc_profile"]
    return made


def on_white(image: Image.Image) -> Image.Image:
    brought = _to_srgb(image)
    if not image.has_transparency_data and brought is None:
        return image.convert("RGB")
    made, opaque = Image.new("RGB", image.size), False
    for top, band in zip(range(0, image.height, BAND), _bands(image), strict=True):
        layer = (brought(band) if brought else band).convert("RGBA")
        opaque = opaque or layer.getchannel("A").getextrema()[1] != 0
        made.paste(Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB"), (0, top))
    if not opaque:
        raise ValueError("it is transparent everywhere, so nothing of it can be seen")
    return made


def _to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """What brings rows of the picture to sRGB by its own profile, or None: without one, or with one that cannot be used."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or len(profile) > MOST_PROFILE:
        return None
    grey = image.mode in ("1", "L", "LA")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
        if mode is None or (mode == "L") > grey or (mode == "CMYK") != (image.mode == "CMYK"):
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None

    def brought(rows: Image.Image) -> Image.Image:
        alpha = rows.convert("RGBA").getchannel("A") if rows.has_transparency_data else None
        rows.info.pop("transparency", None)
        colours = rows.convert("RGBA").convert(mode) if rows.mode == "P" else rows.convert(mode)
        made = ImageCms.applyTransform(colours, transform)
        assert made is not None  # None is what it gives in place only
        if alpha is not None:
            made.putalpha(alpha)
        return made

    return brought


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    """The picture from top to bottom, some rows at a time: what is worked on then takes little beside the picture."""
    for top in range(0, image.height, BAND):
        yield image.crop((0, top, image.width, min(top + BAND, image.height)))
