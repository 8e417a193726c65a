"""A minute of broken pictures of every format: each is a picture or a ValueError with the reason."""

import warnings
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from pipeline.inputs.images import decode, decode_alpha
from tests.fuzzing import fuzz
from tests.pipeline.inputs.test_picture_metadata import (
    FORMATS,
    HALF_CLEAR,
    LINEAR_GREY,
    SWAPPED,
    encoded,
    exif,
    png_of,
    ramp,
    red_over_blue,
    sideways,
)

MEMORY = 1_500  # megabytes, what SECURITY.md states
WHOLE = [
    *(encoded(red_over_blue(), form, icc_profile=SWAPPED) for form in FORMATS),
    *(encoded(red_over_blue(), form) for form in ("GIF", "BMP")),
    *(encoded(red_over_blue(), form, exif=exif([sideways("<")])) for form in ("JPEG", "PNG", "WEBP")),
    *(png_of(*HALF_CLEAR[kind]) for kind in HALF_CLEAR),
    encoded(ramp(0, 1, np.float32), "TIFF"),
    encoded(ramp(0, 65535, np.int32), "TIFF"),
    encoded(red_over_blue("CMYK"), "JPEG"),
    encoded(red_over_blue("L"), "PNG", icc_profile=LINEAR_GREY),
    encoded(red_over_blue("RGBA"), "WEBP", save_all=True, append_images=[Image.new("RGBA", (64, 64))]),
]


def read(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it passes over
        for crop in ("centre", "pad", "squash"):
            pixels = decode(data, 32, crop)
            assert pixels.shape == (32, 32, 3)
        with suppress(ValueError):
            decode_alpha(data, 32, "centre")


@pytest.mark.long
def test_broken_pictures_are_pictures_or_reasons_within_the_stated_memory() -> None:
    """Catches a traceback in a worker, a file that it hangs on, and one that unpacks to gigabytes."""
    assert fuzz(read, (ValueError,), WHOLE, seconds=60, megabytes=MEMORY) > 1_000
