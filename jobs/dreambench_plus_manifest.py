"""Turn DreamBench++'s data (Peng et al. 2024, dreambenchplus.github.io) into a manifest and a protocol for invert_all.py.

  python jobs/dreambench_plus_manifest.py dreambench_plus/data --output dreambench_plus.csv
  python jobs/invert_all.py dreambench_plus.csv --protocol dreambench_plus.toml --model stable-diffusion-v1-5/stable-diffusion-v1-5
  python jobs/evaluate.py runs/dreambench_plus --group-by category

DATA holds images/<category>/<number>.jpg and captions/<category>/<number>.txt. The first line of a caption file is the subject, the
others are its nine prompts; the word replaces the subject in them. The categories are animal, human, object and style. Each concept
has one picture and its own prompts. Prompts that do not hold their subject exactly once are left out and listed.

Exit codes: 0 written; 2 not written: no such data, or subjects with faults, which are listed.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.arguments import add_log
from jobs.cli.log import open_log
from jobs.dreambench_manifest import NOT_STARTED, PICTURES, WRITTEN, DatasetError
from pipeline.protocols import ProtocolError
from pipeline.protocols.reading import read_protocol
from pipeline.store.storage import Storage, StorageError
from pipeline.text_files import MOST_TEXT_BYTES, lines_of

LISTED = 20
# The settings of their Textual Inversion script, except for the sampler: theirs is Stable Diffusion's default, PNDM.
SAMPLING = """edit_images = 1
untrained_images = 1
plain_images = 4
sampler = "ddim"
steps = 100
guidance = 7.5
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """name: the concept, such as "animal-00". prompts: with {} for the word. left_out: prompts without a place for it."""

    name: str
    category: str
    noun: str
    picture: Path
    prompts: tuple[str, ...]
    left_out: tuple[str, ...]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dreambench_plus_manifest.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder that holds images/ and captions/")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("dreambench_plus.csv"),
        metavar="CSV",
        help="the manifest; the protocol is written beside it as a .toml file (default: %(default)s)",
    )
    add_log(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    protocol = arguments.output.with_suffix(".toml")
    try:
        subjects = read_subjects(arguments.data)
        written = protocol_text(subjects)
        read_protocol(written.encode(), str(protocol))
        protocol.write_text(written, encoding="utf-8")
        with arguments.output.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, ["concept", "images", "class", "kind", "subject", "category"])
            writer.writeheader()
            writer.writerows(_row(subject) for subject in subjects)
    except (DatasetError, ProtocolError, OSError) as error:
        log.complain("not written", f"nothing was written.\n{error}")
        return NOT_STARTED
    left_out = [f"  {subject.name}: {prompt!r}" for subject in subjects for prompt in subject.left_out]
    if left_out:
        more = [f"  and {len(left_out) - LISTED} more"] if len(left_out) > LISTED else []
        log.say(
            "left out",
            "\n".join(["left out, as they do not hold their subject exactly once:", *left_out[:LISTED], *more]),
        )
    log.say("written", f"{len(subjects)} subjects in {arguments.output}, their prompts in {protocol}")
    return WRITTEN


def read_subjects(data: Path) -> list[Subject]:
    """The subjects, sorted by name. Raises DatasetError with a line for each fault."""
    captions = sorted((data / "captions").glob("*/*.txt"))
    if not captions:
        raise DatasetError(
            f"{data}: there is no captions/<category>/<number>.txt in it; DATA is the folder that holds them"
        )
    subjects: list[Subject] = []
    wrong: list[str] = []
    for path in captions:
        category = path.parent.name
        images = data / "images" / category
        pictures = sorted(each for each in images.glob(f"{path.stem}.*") if each.suffix.lower() in PICTURES)
        try:
            noun, *said = lines_of(Storage(str(path)).read_bytes(at_most=MOST_TEXT_BYTES))
        except (StorageError, ValueError) as error:
            wrong.append(f"{path}: expected the subject in the first line and prompts in the others ({error})")
            continue
        prompts = tuple(dict.fromkeys(filter(None, (_template(prompt, noun) for prompt in said))))
        if len(pictures) != 1:
            wrong.append(f"{images / path.stem}.*: there are {len(pictures)} pictures, expected one")
        elif not prompts:
            wrong.append(f"{path}: no prompt holds the subject {noun!r} exactly once")
        else:
            left_out = tuple(prompt for prompt in said if _template(prompt, noun) is None)
            name = re.sub(r"[^A-Za-z0-9]+", "-", f"{category}-{path.stem}")
            subjects.append(Subject(name, category, noun.lower(), pictures[0].resolve(), prompts, left_out))
    if wrong:
        raise DatasetError("\n".join(wrong))
    return subjects


def protocol_text(subjects: Sequence[Subject]) -> str:
    lists = [f"{json.dumps(each.name)} = {json.dumps(each.prompts, ensure_ascii=False)}" for each in subjects]
    return SAMPLING + "\n[edits]\n" + "\n".join(lists) + "\n"


def _template(prompt: str, noun: str) -> str | None:
    """The prompt with {} for its subject; None if the subject is not in it exactly once, or if it has braces."""
    pattern = re.compile(rf"(?<!\w){re.escape(noun)}(?!\w)", re.IGNORECASE)
    if len(pattern.findall(prompt)) != 1 or "{" in prompt or "}" in prompt:
        return None
    return pattern.sub("{}", prompt)


def _row(subject: Subject) -> dict[str, str]:
    kind = "style" if subject.category == "style" else "object"
    return {"concept": subject.name, "images": str(subject.picture), "class": subject.noun, "kind": kind,
            "subject": subject.name, "category": subject.category}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
