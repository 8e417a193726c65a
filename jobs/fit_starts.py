"""Fit a start file, with which words start from their pictures: invert_all.py --start FILE.

  python jobs/fit_starts.py runs/catalogue --output starts.safetensors
  python jobs/fit_starts.py --vocabulary --model models/sd-1.5 --clip ViT-L-14:openai --output starts.safetensors

The first fits a ridge from the CLIP features of concepts' pictures, which the run folders keep, to the words learned of them. The
second needs no learned words: it fits to the vocabulary's own. A file belongs to one model and one CLIP.

Exit codes: 0 written; 2 nothing was written: no such run, words of different models or CLIPs, too few words.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.api import FitRequest, NotStartedError, fit_starts
from jobs.application.local_paths import absolute_name
from jobs.cli.arguments import add_storage_and_cluster
from jobs.cli.log import open_log
from pipeline.store.storage import Storage, StorageError, parse_storage_options
from pipeline.text_files import MOST_TEXT_BYTES, sentences_of_file

WRITTEN, NOT_WRITTEN = 0, 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fit_starts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders with learned words")
    parser.add_argument("--output", required=True, metavar="FILE", help="the start file, a path or any fsspec URL")
    parser.add_argument(
        "--vocabulary", action="store_true", help="fit to the words of the model's vocabulary, not to runs"
    )
    parser.add_argument("--nouns", metavar="FILE", help="words to fit to, one a line (default: all of the vocabulary)")
    parser.add_argument(
        "--model",
        type=absolute_name,
        metavar="ID|PATH|URL",
        help="the model (default: the runs' own, if it is the shipped one)",
    )
    parser.add_argument(
        "--clip", type=absolute_name, metavar="NAME", help="the CLIP (default: the runs' own, if it is the shipped one)"
    )
    parser.add_argument(
        "--measure",
        type=int,
        default=8,
        metavar="N",
        help="words that are left out of the fit and learned again from their initializers, to tell how many steps the start is "
        "worth; 0: none (default: %(default)s)",
    )
    add_storage_and_cluster(parser)
    return parser


def request_of(arguments: argparse.Namespace) -> FitRequest:
    """Raises ValueError and StorageError."""
    options = parse_storage_options(arguments.storage_option)
    if bool(arguments.runs) == arguments.vocabulary:
        raise ValueError("give run folders, or --vocabulary and no run")
    nouns: tuple[str, ...] = ()
    if arguments.nouns:
        try:
            nouns = tuple(sentences_of_file(Storage(arguments.nouns, options).read_bytes(at_most=MOST_TEXT_BYTES)))
        except ValueError as error:
            raise ValueError(f"--nouns {arguments.nouns}: {error}") from None
    return FitRequest(
        arguments.output, tuple(arguments.runs), arguments.model, arguments.clip, nouns, arguments.measure, options,
        arguments.ray_address,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        fit_starts(request_of(arguments), log)
    except (NotStartedError, StorageError, ValueError) as error:
        log.complain("not started", f"nothing was written.\n{error}")
        return NOT_WRITTEN
    return WRITTEN


if __name__ == "__main__":
    sys.exit(main())
