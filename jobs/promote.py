"""Make words that the gate held back public, or take a word back.

  python jobs/promote.py runs/night --promote owl --promote taxi
  python jobs/promote.py runs/night --promote-all
  python jobs/promote.py runs/night --roll-back owl

Without an option it lists the candidates and why each was held back. It reads and writes the run folder alone.

Exit codes: 0 done, or listed; 2 nothing was changed: no such run, no such candidate, or no earlier word.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.api import Gate
from jobs.application.night.gate_words import promote, roll_back_words
from jobs.application.phases import phase
from jobs.cli.arguments import add_log, add_storage
from jobs.cli.log import open_log
from pipeline.store.catalogue.accepted import is_gated, read_judged
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, parse_storage_options
from pipeline.text_files import paragraph

DONE, NOT_STARTED = 0, 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="promote.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder whose words pass a gate (invert_all.py --gate)")
    parser.add_argument(
        "--promote",
        action="append",
        default=[],
        metavar="NAME",
        help="make this concept's candidate public (may be repeated)",
    )
    parser.add_argument("--promote-all", action="store_true", help="make all candidates public")
    parser.add_argument(
        "--roll-back",
        action="append",
        default=[],
        metavar="NAME",
        help="make the word public that was accepted before this concept's present one (may be repeated)",
    )
    parser.add_argument(
        "--keep-words",
        type=int,
        default=Gate().keep_words,
        metavar="K",
        help="earlier accepted words of a concept to keep (default: %(default)s)",
    )
    add_log(parser)
    add_storage(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        if (arguments.promote or arguments.promote_all) and arguments.roll_back:
            raise ValueError("--promote and --roll-back: give one of them at a time")
        keep = Gate(keep_words=arguments.keep_words).keep_words
        run = RunFolder(Storage(arguments.run, parse_storage_options(arguments.storage_option)))
        run.read_json("run.json")
        if not is_gated(run):
            raise ValueError("the words of this run pass no gate: all of them are public")
        if arguments.promote or arguments.promote_all:
            with phase(log, "promoting") as counts:
                step = counts.of("promoted", "words")
                done = promote(run, arguments.promote, keep, everything=arguments.promote_all, step=step)
            log.say("promoted", f"promoted  {', '.join(done) or 'nothing: there is no candidate'}", concepts=done)
        if arguments.roll_back:
            roll_back_words(run, arguments.roll_back)
            log.say("rolled back", f"rolled back  {', '.join(arguments.roll_back)}", concepts=arguments.roll_back)
        if not (arguments.promote or arguments.promote_all or arguments.roll_back):
            held = [word for word in read_judged(run) if word.state == "candidate"]
            lines = [f"candidates  {len(held)}", *(f"  {word.concept}: {word.reason}" for word in held)]
            log.say("candidates", paragraph(lines), concepts={word.concept: word.reason for word in held})
    except (StorageError, ValueError) as error:
        log.complain("not started", f"nothing was changed.\n{error}")
        return NOT_STARTED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
