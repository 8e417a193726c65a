"""Score the words of a run that are not scored yet, and write its report anew.

  python jobs/evaluate.py runs/demo
  python jobs/evaluate.py s3://bucket/run-7 --clip ViT-B-32-quickgelu/openai

Exit codes: 0 scored; 2 nothing was started: no such run, or an unknown CLIP.
"""

import argparse
import sys
from collections.abc import Sequence

from cluster.session import ray_session
from jobs.arguments import add_storage_and_cluster
from pipeline.protocols import PROTOCOLS
from pipeline.run_folder import RunFolder
from pipeline.storage import Storage, StorageError, parse_storage_options

SCORED, NOT_STARTED = 0, 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, as given to invert_all.py's --output")
    parser.add_argument("--clip", metavar="NAME", help="open_clip model that scores (default: the run's own)")
    add_storage_and_cluster(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        run = RunFolder(Storage(arguments.run, parse_storage_options(arguments.storage_option)))
        configuration = run.read_json("run.json")
    except (StorageError, ValueError) as error:
        print(f"wordmint: nothing was started.\n{error}", file=sys.stderr)
        return NOT_STARTED
    # open_clip and torch take seconds to import; a mistyped run should be told at once.
    from eval.clip import load_clip
    from eval.evaluate import Judgement, score_run
    from jobs.report_run import headline, write_report

    clip = arguments.clip or configuration["clip"]
    try:
        load_clip(clip)
    except (ValueError, OSError) as error:
        print(f"wordmint: nothing was started.\n{error}", file=sys.stderr)
        return NOT_STARTED
    protocol = PROTOCOLS[configuration["protocol"].split("-v")[0]]
    with ray_session(arguments.ray_address) as session:
        judgement = Judgement(protocol, configuration["model"], configuration["model_digest"], clip, session.device)
        scored = score_run(run, judgement)
    configuration["clip"] = clip
    run.write_json("run.json", configuration)
    summary = write_report(run, scored.under, configuration)
    print(f"{scored.fresh} concepts scored now, {len(summary.concepts) - summary.unscored} in all\n{headline(summary)}")
    print(f"report    {run.storage.url.rstrip('/')}/report/index.html")
    return SCORED


if __name__ == "__main__":
    sys.exit(main())
