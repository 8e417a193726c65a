"""Options that several commands share, and types of options that refuse a value with what would do."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

STORAGE_OPTIONS = "WORDMINT_STORAGE_OPTIONS"
MOST_STEPS = 1_000_000


def add_storage(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--storage-option",
        action="append",
        default=os.environ.get(STORAGE_OPTIONS, "").split(),
        metavar="KEY=VALUE|@FILE",
        help="option of the storage: for S3 such as endpoint_url=http://minio:9000, for other stores with the prefix gs., az. or "
        "hdfs.; @FILE reads options from a file, one a line, and so hides them from other accounts of the machine (may be "
        f"repeated; default: those in the environment variable {STORAGE_OPTIONS})",
    )


def add_log(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--verbose", action="store_true", help="log information as well as warnings")
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="json: one object a line (default: %(default)s)"
    )


def add_metrics(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION|NAME",
        help="a metric of your own, computed and reported beside ours: a function or class of a module that all machines can "
        "import, or an entry point of wordmint.metrics (may be repeated)",
    )


def add_keep_features(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="keep the CLIP's features of all pictures and texts in picture_features/",
    )


def add_storage_and_cluster(parser: argparse._ActionsContainer) -> None:
    add_storage(parser)
    add_log(parser)
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster to join (default: that of the submitted job, else a local one)",
    )


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A type of options: a whole number from `least` to `most`."""

    def read(said: str) -> int:
        if not (said.isascii() and said.isdigit() and least <= int(said) <= most):
            raise argparse.ArgumentTypeError(f"{said}: it takes a whole number from {least:,} to {most:,}")
        return int(said)

    return read


def minutes(said: str) -> float:
    """A type of options: a number above 0, a week at most."""
    try:
        if 0 < float(said) <= 7 * 24 * 60:
            return float(said)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{said}: it takes minutes, a number above 0 and up to 10,080")


def folder(said: str) -> Path:
    """A type of options: a folder, or one that can be made."""
    return _folder_for(Path(said), said)


def new_folder(said: str) -> Path:
    """A type of options: a folder that is not there yet, or is empty, and so may be removed afterwards."""
    path = folder(said)
    if path.is_dir() and any(path.iterdir()):
        raise argparse.ArgumentTypeError(f"{said}: the folder has files in it; it would be removed with them")
    return path


def file_to_write(said: str) -> Path:
    """A type of options: a file in a folder that is there, or can be made."""
    path = Path(said)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{said}: a folder; it takes the name of a file")
    _folder_for(path.parent, said)
    return path


def _folder_for(path: Path, said: str) -> Path:
    if file := next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None):
        raise argparse.ArgumentTypeError(f"{said}: {file} is a file, and a folder is needed here")
    return path
