"""Turn a checkout of DreamBench (github.com/google/dreambooth) into a manifest for invert_all.py.

  python jobs/dreambench_manifest.py dreambooth/dataset --output dreambench.csv
  python jobs/invert_all.py dreambench.csv --protocol dreambench --model stable-diffusion-v1-5/stable-diffusion-v1-5

DATASET holds one folder of pictures for each subject, and prompts_and_classes.txt with the subjects' classes. Which classes are
live subjects is read from the protocol.

Exit codes: 0 written; 2 not written: no such folder, or subjects without a class or pictures, which are listed.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli.arguments import add_log
from jobs.cli.log import open_log
from pipeline.protocols import PROTOCOLS
from pipeline.store.storage import Storage
from pipeline.text_files import MOST_TEXT_BYTES, decode_text

WRITTEN, NOT_STARTED = 0, 2
CLASSES = "prompts_and_classes.txt"
HEADER = "subject_name,class"
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


class DatasetError(ValueError):
    """The folder does not hold DreamBench's data; one line for each fault."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dreambench_manifest.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="the folder dataset/ of the checkout")
    parser.add_argument(
        "--output", type=Path, default=Path("dreambench.csv"), metavar="CSV", help="(default: %(default)s)"
    )
    add_log(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        rows = manifest_rows(arguments.dataset)
        with arguments.output.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, ["concept", "images", "class", "subject"])
            writer.writeheader()
            writer.writerows(rows)
    except (DatasetError, OSError) as error:
        log.complain("not written", f"nothing was written.\n{error}")
        return NOT_STARTED
    log.say("written", f"{len(rows)} subjects in {arguments.output}")
    return WRITTEN


def manifest_rows(dataset: Path) -> list[dict[str, str]]:
    """One manifest row for each subject, sorted by name. images: the absolute path of its folder. Raises DatasetError."""
    classes = read_classes(dataset / CLASSES)
    wrong = []
    for name in classes:
        folder = dataset / name
        if not folder.is_dir():
            wrong.append(f"{folder}: there is no such folder, but {CLASSES} has a class for {name!r}")
        elif not any(path.suffix.lower() in PICTURES for path in folder.iterdir()):
            wrong.append(f"{folder}: there are no pictures in it")
    wrong += [
        f"{path}: {CLASSES} has no class for it"
        for path in sorted(dataset.iterdir())
        if path.is_dir() and not path.name.startswith(".") and path.name not in classes
    ]
    if wrong:
        raise DatasetError("\n".join(wrong))
    live = PROTOCOLS["dreambench"].subjects
    return [
        {"concept": name, "images": str((dataset / name).resolve()), "class": noun, "subject": live.get(noun, "object")}
        for name, noun in sorted(classes.items())
    ]


def read_classes(path: Path) -> dict[str, str]:
    """Subject -> class, from the file's table; it ends at the first line without a comma-separated pair. Raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file; DATASET is the folder that holds it")
    try:
        lines = [
            line.strip() for line in decode_text(Storage(str(path)).read_bytes(at_most=MOST_TEXT_BYTES)).splitlines()
        ]
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from None
    if HEADER not in lines:
        raise DatasetError(f"{path}: there is no line {HEADER!r}")
    classes: dict[str, str] = {}
    for line in lines[lines.index(HEADER) + 1 :]:
        name, comma, noun = line.partition(",")
        if not (comma and name and noun):
            break
        classes[name] = noun.strip()
    if not classes:
        raise DatasetError(f"{path}: there is no subject below {HEADER!r}")
    return classes


if __name__ == "__main__":
    sys.exit(main())
