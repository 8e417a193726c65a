"""Import words that another trainer learned into a run, where they are drawn, scored and reported like our own.

  python jobs/import_words.py manifest.csv --words theirs/ --output runs/theirs
  python jobs/evaluate.py runs/theirs --protocol paper

The manifest is that of invert_all.py, pictures included, because words are scored against them. A row's word is the file in its
column `word_file`, or else FOLDER/<concept>.safetensors, .pt or .bin. It reads the files of diffusers, AUTOMATIC1111 and kohya,
and SDXL's clip_l and clip_g; it never runs a pickle. The other options and the exit codes are those of invert_all.py.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs import invert_all


def parser() -> argparse.ArgumentParser:
    parser = invert_all.parser()
    parser.prog, parser.description = "import_words.py", __doc__
    parser.add_argument(
        "--words", metavar="FOLDER", help="folder of word files, each named for its concept; a path or any fsspec URL"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return invert_all.start(arguments, import_words=True, word_folder=arguments.words)


if __name__ == "__main__":
    sys.exit(main())
