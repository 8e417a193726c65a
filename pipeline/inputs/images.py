"""Decodes one picture to pixels to train on: upright, on white, square, 8-bit RGB; or says why it cannot be used.

bytes -> opened (picture_file.py) -> in sRGB on white (colours.py) -> square
"""

import numpy as np
from PIL import Image, ImageOps

from pipeline.inputs.colours import WHITE, on_white
from pipeline.inputs.picture_file import opened
from pipeline.settings import CropMode

SQUARE_MODES: tuple[CropMode, ...] = ("centre", "pad", "squash")


def decode(data: bytes, resolution: int, crop: CropMode) -> np.ndarray:
    """One encoded picture as uint8 (R, R, 3). Raises ValueError, whose text is a reason for the file's owner."""
    return np.asarray(_squared(opened(data, on_white), resolution, crop))


def decode_alpha(data: bytes, resolution: int, crop: CropMode) -> np.ndarray:
    """The picture's alpha channel, uint8 (R, R); 0 in the bars of a padded picture. Raises ValueError as `decode` does, and
    for a picture that is opaque everywhere or nowhere.
    """
    alpha = opened(data, lambda image: image.convert("RGBA").getchannel("A"))
    if alpha.getextrema()[0] == 255:
        raise ValueError("it is opaque everywhere, so its transparency does not show what to learn")
    return _mask(alpha, resolution, crop, "its transparency")


def decode_mask(data: bytes, picture: bytes, resolution: int, crop: CropMode) -> np.ndarray:
    """A mask beside its picture, white where the concept is, cut as the picture is: uint8 (R, R).

    Raises ValueError as `decode` does, and for a mask of other proportions than its picture, or without a white place.
    """
    mask, (width, height) = opened(data, lambda image: on_white(image).convert("L")), opened(picture, on_white).size
    if abs(mask.width * height - mask.height * width) > 0.02 * mask.width * height:
        raise ValueError(f"{mask.width} x {mask.height} pixels, which are not the proportions of {width} x {height}")
    return _mask(mask.resize((width, height), Image.Resampling.BILINEAR), resolution, crop, "the mask")


def _mask(mask: Image.Image, resolution: int, crop: CropMode, name: str) -> np.ndarray:
    values = np.asarray(_squared(mask, resolution, crop, bars=0))
    if not values.any():
        raise ValueError(f"{name} leaves nothing of the picture to learn from")
    return values


def _squared(
    image: Image.Image, resolution: int, crop: CropMode, bars: int | tuple[int, int, int] = WHITE
) -> Image.Image:
    size, lanczos = (resolution, resolution), Image.Resampling.LANCZOS
    if crop == "centre":
        return ImageOps.fit(image, size, lanczos)
    if crop == "pad":
        return ImageOps.pad(image, size, lanczos, bars)
    return image.resize(size, lanczos)
