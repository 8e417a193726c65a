"""Pixels of any mode and depth as 8-bit sRGB on white."""

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

from pipeline.inputs.picture_metadata import profile_of

WHITE = (255, 255, 255)
BAND = 256  # rows


class UnfitError(ValueError):
    """The picture can be decoded, but nothing can be learned from it."""


def eight_bit(image: Image.Image) -> Image.Image:
    """Deep greys scaled to 8 bits, where Pillow's own conversion clips them; other modes as they are. Raises UnfitError."""
    if not image.mode.startswith(("I", "F")):
        return image
    lowest, highest = 0.0, 0.0
    for band in bands(image):
        values = np.asarray(band)
        if not np.isfinite(values).all():
            raise UnfitError("undefined grey values (NaN or infinite)")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    white = _white(image.mode, highest)
    # Resampling leaves floats a little below black, as it does above white.
    if lowest < (-0.1 * white if image.mode == "F" else 0):
        raise UnfitError(f"negative grey values, down to {lowest:g}: save it with values from 0 upwards")
    grey = [
        np.round(np.clip(np.asarray(band).astype(np.float64) / white, 0, 1) * 255).astype(np.uint8)
        for band in bands(image)
    ]
    made = Image.fromarray(np.concatenate(grey))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        made.putalpha(Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)))
    if profile := profile_of(image):
        made.info["icc_profile"] = profile
    return made


def _white(mode: str, highest: float) -> float:
    """The value of white. Files do not state it, so it is the smallest usual one that the picture does not exceed by much."""
    if mode == "F" and highest < 16:
        return 1.0
    # Read as 16 bits, such small values would all be black; they are 8-bit values in a deeper file.
    if highest <= 255 or (highest < 300 and not mode.startswith("I;16")):
        return 255.0
    return 65535.0 if mode.startswith("I") and highest <= 65535 else highest


def on_white(image: Image.Image) -> Image.Image:
    """The picture as RGB on white, its colour profile applied if it can be used. Raises UnfitError if all is transparent."""
    brought = _to_srgb(image)
    if not image.has_transparency_data and brought is None:
        return image.convert("RGB")
    made, opaque = Image.new("RGB", image.size), False
    for top, band in zip(range(0, image.height, BAND), bands(image), strict=True):
        layer = (brought(band) if brought else band).convert("RGBA")
        opaque = opaque or layer.getchannel("A").getextrema()[1] != 0
        made.paste(Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB"), (0, top))
    if not opaque:
        raise UnfitError("it is transparent everywhere, so nothing of it can be seen")
    return made


def bands(image: Image.Image) -> Iterator[Image.Image]:
    """Strips of the picture from top to bottom, so that a conversion needs little memory beside the picture's own."""
    for top in range(0, image.height, BAND):
        yield image.crop((0, top, image.width, min(top + BAND, image.height)))


def _to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """The conversion of a strip to sRGB by the picture's profile; None if it has no profile that can be used."""
    profile = profile_of(image)
    if not profile:
        return None
    grey = image.mode in ("1", "L", "LA")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(opened.profile.xcolor_space.strip())
        if mode is None or (mode == "L") > grey or (mode == "CMYK") != (image.mode == "CMYK"):
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # noqa: BLE001 - a broken profile can raise anything, and never breaks pixels
        return None

    def brought(rows: Image.Image) -> Image.Image:
        alpha = rows.convert("RGBA").getchannel("A") if rows.has_transparency_data else None
        colours = rows.convert("RGBA").convert(mode) if rows.mode == "P" else rows.convert(mode)
        colours.info.pop("transparency", None)
        made = transform.apply(colours)
        if alpha is not None:
            made.putalpha(alpha)
        return made

    return brought
