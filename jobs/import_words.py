"""Bring words that another trainer learned into a run, where they are drawn, scored and reported like ours.

  python jobs/import_words.py manifest.csv --words theirs/ --output runs/theirs
  python jobs/evaluate.py runs/theirs --protocol paper

The manifest is that of invert_all.py, pictures included: words are judged beside them. A row's word is the file that its
column `word_file` names, or else FOLDER/<concept>.safetensors, .pt or .bin. Read are the files of diffusers, AUTOMATIC1111
and kohya, and SDXL's clip_l and clip_g; no pickle is run. All options are those of invert_all.py, and so are the exit codes.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from jobs import invert_all
from pipeline.inputs.manifest import Manifest
from pipeline.store.storage import Storage, without_credentials

ENDINGS = (".safetensors", ".pt", ".bin")


def parser() -> argparse.ArgumentParser:
    parser = invert_all.parser()
    parser.prog, parser.description = "import_words.py", __doc__
    parser.add_argument(
        "--words", metavar="FOLDER", help="a folder of word files, each called as its concept; a path or any fsspec URL"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return invert_all.start(arguments, prepare=lambda manifest, options: with_words(manifest, arguments.words, options))


def with_words(manifest: Manifest, folder: str | None, options: Mapping[str, Any]) -> Manifest:
    """Every concept with its word's file. Raises ValueError that names those without one, and StorageError."""
    found: dict[str, str] = {}
    if folder is not None:
        place = Storage(folder, options)
        for name in place.identities():
            path = PurePosixPath(name)
            if path.suffix.lower() in ENDINGS:
                if path.stem in found:
                    raise ValueError(
                        f"{without_credentials(folder)} has two words for {path.stem}: {name} is one of them"
                    )
                found[path.stem] = place.join(name)
    concepts = [replace(each, word_file=each.word_file or found.get(each.name)) for each in manifest.concepts]
    if wordless := [each.name for each in concepts if not each.word_file]:
        where = (
            f"there is no {wordless[0]}.safetensors, .pt or .bin in {without_credentials(folder)}"
            if folder
            else "give --words"
        )
        raise ValueError(
            f"{len(wordless)} of {len(concepts)} concepts have no word to import, such as {', '.join(wordless[:5])}: name its "
            f"file in the column word_file, or {where}"
        )
    return replace(manifest, concepts=tuple(concepts))


if __name__ == "__main__":
    sys.exit(main())
