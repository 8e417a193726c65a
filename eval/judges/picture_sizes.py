"""Bounds what a judge's configuration makes of a picture: its side, and the pieces that it is cut into."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.models.configuration import ConfigurationError, read_configuration

FILES = ("preprocessor_config.json", "processor_config.json")
OF_VIDEOS = "video_processor"  # no video is read
MOST_SIDE, MOST_PIXELS = 1_024, 4_096 * 4_096  # a judge of features reads 64 pictures at a time
# Multiples that pictures are brought to, and pieces that they are cut into.
PIECES = {
    "patch_size": (4, 64), "spatial_patch_size": (4, 64), "merge_size": (1, 4), "temporal_patch_size": (1, 4),
    "size_divisor": (1, 64),
}  # fmt: skip
# Of some processors these count pixels, and those of others are far smaller.
OF_PIXELS = ("min_pixels", "max_pixels", "shortest_edge", "longest_edge")


def refuse_large_pictures(folder: Path, most: int = MOST_SIDE, *, pixels: bool = False) -> None:
    """most: pixels a side, and the most that any other number says. pixels: whether it gives sizes as numbers of pixels.

    Raises ConfigurationError for a processor of the folder that makes more of a picture.
    """
    for path in (folder / name for name in FILES):
        if path.is_file():
            refuse_numbers(path, read_configuration(path), most, pixels=pixels)


def refuse_numbers(path: Path, stated: object, most: int = MOST_SIDE, *, pixels: bool = False) -> None:
    """stated: what the file says of pictures. Raises ConfigurationError for a number above `most`."""
    for name, value in _numbers(stated, ""):
        least, limit = PIECES.get(name, (-most, MOST_PIXELS if pixels and name in OF_PIXELS else most))
        if not least <= value <= limit:
            raise ConfigurationError(f"{path}: {name!r} is {value:.12g}; it must lie between {least:,} and {limit:,}")


def _numbers(value: object, name: str) -> Iterator[tuple[str, float]]:
    """All numbers, however deep, each with the name it stands under."""
    if isinstance(value, dict):
        for inner, each in value.items():
            if inner != OF_VIDEOS and not str(inner).endswith("_id"):  # a token's number is no size
                yield from _numbers(each, str(inner))
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(each, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
