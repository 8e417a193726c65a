"""Compare two runs of the same concepts, made with different models, settings or nights.

  python jobs/diff.py runs/sd15 runs/sd21
  python jobs/diff.py s3://bucket/monday s3://bucket/tuesday --output runs/diff

Concepts are paired by name. Writes a page with the pictures of both, concepts.csv, table.tex for a paper, and differences.json.
Both runs must have been scored with the same protocol and CLIP; jobs/evaluate.py does this. This command itself learns, draws
and scores nothing.

Exit codes: 0 compared; 2 not compared: no such run, or the runs have nothing in common that can be compared.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.application.requests import NotComparedError, NotStartedError
from jobs.application.two_runs import DiffRequest, diff
from jobs.cli.arguments import add_log, add_metrics, add_storage
from jobs.cli.log import open_log
from pipeline.store.storage import StorageError, parse_storage_options

COMPARED, NOT_STARTED = 0, 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diff.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", help="a run folder, as given to invert_all.py's --output")
    parser.add_argument("b", metavar="B", help="the run folder to compare it with")
    parser.add_argument(
        "--output", metavar="URL", default="runs/diff", help="folder for the page and the tables (default: %(default)s)"
    )
    add_metrics(parser)
    add_storage(parser)
    add_log(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        options = parse_storage_options(arguments.storage_option)
        diff(DiffRequest(arguments.a, arguments.b, arguments.output, tuple(arguments.metric), options), log)
    except (NotComparedError, NotStartedError, StorageError, ValueError) as error:
        log.complain("not compared", f"nothing was compared.\n{error}")
        return NOT_STARTED
    return COMPARED


if __name__ == "__main__":
    sys.exit(main())
