"""Score the words of one or several runs, compare them with the last good night, and rewrite the reports.

  python jobs/evaluate.py runs/demo
  python jobs/evaluate.py s3://bucket/run-7 s3://bucket/run-8 --history s3://bucket/history --fail-on-drop 0.01
  python jobs/evaluate.py runs/demo --protocol paper --group-by shop
  python jobs/evaluate.py runs/demo --protocol prompts.toml --dino timm:vit_small_patch16_224.dino:WEIGHTS.safetensors
  python jobs/evaluate.py runs/demo --protocol paper --until-ci 0.005

Only words without a score under this protocol, model, CLIP and sampler are scored. Pictures that the protocol asks for and
that the run does not have are drawn from the words. Running the same night twice changes nothing.

Exit codes: 0 scored, and no worse than before; 1 scored, but some words have no score; 2 nothing was started, or these runs
cannot be compared; 3 cut short, and what is scored is kept; 4 scored, but the gate said no: worse than before.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence

from jobs.api import EvaluationRequest, EvaluationResult, NotComparedError, NotStartedError, evaluate
from jobs.application.local_paths import absolute_name
from jobs.cli.arguments import add_keep_features, add_metrics, add_storage_and_cluster
from jobs.cli.log import open_log
from pipeline.protocols import PROTOCOLS
from pipeline.store.storage import StorageError, parse_storage_options

GOOD, SOME_FAILED, NOT_STARTED, CUT_SHORT, WORSE = 0, 1, 2, 3, 4
GOES_ON = "what is scored is kept, and the same command goes on"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, as given to invert_all.py's --output")
    parser.add_argument(
        "--protocol",
        metavar="NAME|FILE",
        help=f"which pictures are scored: {', '.join(sorted(PROTOCOLS))} or a .toml file (default: the run's own)",
    )
    parser.add_argument(
        "--clip",
        type=absolute_name,
        metavar="NAME",
        help="open_clip model, or transformers:FOLDER, that scores the pictures (default: the run's own, if it is the shipped one)",
    )
    parser.add_argument(
        "--model",
        type=absolute_name,
        metavar="ID|PATH",
        help="model that the words were learned on (default: the run's own, if it is the shipped one)",
    )
    parser.add_argument(
        "--dino",
        type=absolute_name,
        metavar="NAME",
        help="DINO model that scores the same pictures a second time: timm:ARCH:FILE or transformers:FOLDER",
    )
    parser.add_argument(
        "--vqa",
        metavar="FOLDER",
        help="vision-language model, as transformers saves it, that is asked whether the pictures show their prompts (VQAScore)",
    )
    parser.add_argument(
        "--until-ci", type=float, default=0.0, metavar="X",
        help="draw a prompt's pictures in rounds, and stop when its score's 95%% interval is within X on either side",
    )  # fmt: skip
    add_metrics(parser)
    add_keep_features(parser)
    nightly = parser.add_argument_group("nightly")
    nightly.add_argument(
        "--history",
        metavar="URL",
        help="folder with the results of earlier nights (default: history/ in the first RUN)",
    )
    nightly.add_argument(
        "--night",
        metavar="NAME",
        help="name of this night; nights are ordered by name (default: today's date, UTC)",
    )
    nightly.add_argument(
        "--fail-on-drop", type=float, metavar="X",
        help="exit with 4 if a fifth of the concepts lost X beyond chance, or if the total loss is as large",
    )  # fmt: skip
    nightly.add_argument(
        "--baseline",
        metavar="NIGHT",
        help="a second night to compare with, besides the last good one, so that small losses that add up are noticed "
        "(default: the first good night)",
    )
    nightly.add_argument(
        "--group-by", metavar="COLUMN", help="manifest column; each of its values is reported and gated"
    )
    add_storage_and_cluster(parser)
    return parser


def request_of(arguments: argparse.Namespace) -> EvaluationRequest:
    """Raises NotStartedError."""
    try:
        return EvaluationRequest(
            runs=tuple(arguments.runs),
            protocol=arguments.protocol,
            model=arguments.model,
            clip=arguments.clip,
            dino=arguments.dino,
            vqa=arguments.vqa,
            until_ci=arguments.until_ci,
            history=arguments.history,
            night=arguments.night,
            fail_on_drop=arguments.fail_on_drop,
            baseline=arguments.baseline,
            group_by=arguments.group_by,
            metrics=tuple(arguments.metric),
            keep_features=arguments.keep_features,
            storage_options=parse_storage_options(arguments.storage_option),
            ray_address=arguments.ray_address,
        )
    except (OSError, ValueError) as error:
        raise NotStartedError(str(error)) from error


def exit_code(result: EvaluationResult) -> int:
    return WORSE if result.verdict.worse else GOOD if result.good else SOME_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        return exit_code(evaluate(request_of(arguments), log))
    except NotComparedError as error:
        log.complain("not compared", f"scored, but not compared.\n{error}")
    except NotStartedError as error:
        log.complain("not started", f"nothing was started.\n{error}")
    except KeyboardInterrupt:
        log.complain("cut short", f"cut short; {GOES_ON}.")
        return CUT_SHORT
    except StorageError as error:
        log.complain("cut short", f"cut short by its storage; {GOES_ON}.\n{error}")
        return CUT_SHORT
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001 - exit code 1 would say that the words had been scored; libraries in Rust raise others
        log.complain("cut short", f"cut short by this error; what is scored is kept.\n{traceback.format_exc()}")
        return CUT_SHORT
    return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main())
