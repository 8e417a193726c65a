"""Learn one new word for every concept of a manifest.

  python jobs/invert_all.py jobs/demo/manifest.csv --output runs/demo
  python jobs/invert_all.py jobs/demo/manifest.csv --output runs/demo --plan
  ray job submit --working-dir . -- python jobs/invert_all.py s3://bucket/manifest.csv --output s3://bucket/run-7

Run the same command again to resume an interrupted run; if all concepts are done, it does nothing.

Exit codes: 0 all concepts are done, or what failed is accepted, or the plan is shown; 1 some concepts failed, and are listed;
2 nothing was started: bad arguments, manifest or model; 3 the run was interrupted; 4 the gate held words back.
"""

import argparse
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from jobs.api import Gate, Limits, NotStartedError, Placement, RunRequest, RunResult, TooManyFailuresError, invert
from jobs.application.local_paths import absolute_name
from jobs.application.night.plan_run import lines_of_plan, plan_run
from jobs.application.recorded import ending_of
from jobs.application.requests import require
from jobs.cli.arguments import add_keep_features, add_metrics, add_storage_and_cluster
from jobs.cli.log import Log, open_log
from jobs.cli.training_arguments import add_training, settings_of, start_file_of
from pipeline.inputs.manifest import RowDefaults
from pipeline.models.find import MINI
from pipeline.protocols import PROTOCOLS
from pipeline.scheduling.shared_paths import UnseenPathError
from pipeline.settings import DTYPES, ModelSettings
from pipeline.store.catalogue.retired import DAYS
from pipeline.store.storage import Storage, StorageError, parse_storage_options
from pipeline.text_files import lines_of

if TYPE_CHECKING:
    from pipeline.scheduling.worker_process import WorkerProcess

MOST_PRICE = 1e9
ALL_DONE, SOME_FAILED, NOT_STARTED, CUT_SHORT, GATE_SAID_NO = 0, 1, 2, 3, 4


def parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="invert_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "manifest", metavar="MANIFEST", help="CSV, JSONL or Parquet with one concept a row; a path or any fsspec URL"
    )

    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--output",
        metavar="URL",
        help="run folder, a path or any fsspec URL (default: beside the manifest or in runs/)",
    )
    what.add_argument(
        "--model",
        type=absolute_name,
        default=MINI,
        metavar="ID|PATH|URL",
        help="model: a diffusers folder or a single file (path or fsspec URL), or a hub id (default: the shipped mini)",
    )
    what.add_argument(
        "--clip",
        type=absolute_name,
        default="mini",
        metavar="NAME",
        help="open_clip model that scores the pictures (default: the shipped one)",
    )
    what.add_argument(
        "--protocol",
        default="quick",
        metavar="NAME|FILE",
        help=f"which pictures are drawn and scored: {', '.join(sorted(PROTOCOLS))} or a .toml file (default: %(default)s)",
    )
    add_metrics(what)
    add_keep_features(what)
    what.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="read our column OURS from the manifest's column THEIRS, as in concept=SKU (may be repeated)",
    )
    what.add_argument(
        "--skip-invalid", action="store_true", help="record invalid manifest rows as failures and run the others"
    )
    what.add_argument(
        "--retry-failed", action="store_true", help="retry concepts that already failed with the same inputs"
    )
    what.add_argument(
        "--only-this-manifest",
        action="store_true",
        help="also retire the words that only other manifests of this run folder list",
    )
    what.add_argument(
        "--retired-days",
        type=int,
        default=DAYS,
        metavar="N",
        help="keep the word of a row that is gone for N days, in case the row returns (default: %(default)s)",
    )

    how = parser.add_argument_group("how a word is learned")
    add_training(how)

    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="maximum number of workers; each holds one copy of the model (default: one a GPU, without GPUs one a CPU core)",
    )
    where.add_argument(
        "--slots",
        type=int,
        metavar="K",
        help="concepts that a worker trains at once (default: as many as raise its speed, measured when it starts)",
    )
    where.add_argument(
        "--checkpoint-gradients",
        default="auto",
        choices=("auto", "on", "off"),
        help="recompute activations in the backward pass to save memory (default: auto, where this makes room for more slots)",
    )
    where.add_argument(
        "--compile",
        default="auto",
        choices=("auto", "off", "blocks", "graph"),
        help="compile the model's blocks, or capture its training step as CUDA graphs (default: auto, on a GPU and for ten minutes "
        "of training or more, what is faster)",
    )
    where.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="G",
        help="GPUs per worker (default: 1 if the cluster has GPUs, else 0)",
    )
    where.add_argument(
        "--cpus-per-worker",
        type=float,
        metavar="C",
        default=1,
        help="CPU cores per worker, and its number of torch threads (default: %(default)s)",
    )
    where.add_argument(
        "--dtype",
        default="auto",
        choices=DTYPES,
        help="data type of the frozen model (default: bfloat16 on GPUs that support it, else float16; float32 on CPUs)",
    )
    where.add_argument(
        "--text-encoder-dtype",
        default="auto",
        choices=DTYPES,
        help="data type of its text encoders (default: that of the model)",
    )
    where.add_argument(
        "--first-stage-dtype",
        default="auto",
        choices=DTYPES,
        help="data type of its autoencoder (default: float32; with --dtype float16, float16 if the model's config allows it)",
    )
    where.add_argument(
        "--offload-first-stage",
        action="store_true",
        help="keep the autoencoder in main memory while it is not used, which frees GPU memory for more slots",
    )
    where.add_argument(
        "--offload-text-encoders",
        action="store_true",
        help="the same for the text encoders; with --word-place output, which needs them for new sentences only",
    )
    add_storage_and_cluster(where)
    where.add_argument(
        "--shared-filesystem", action="store_true", help="confirm that all nodes see the local output path"
    )

    add_gate(parser)
    ahead = parser.add_argument_group("look ahead")
    ahead.add_argument(
        "--plan",
        action="store_true",
        help="show what would be done, by name, with the time it would take; start nothing",
    )
    ahead.add_argument(
        "--price-per-hour",
        type=float,
        metavar="X",
        help="with --plan: price of one worker's hour, to show the money too",
    )

    wrong = parser.add_argument_group("limits and logging")
    wrong.add_argument(
        "--accept-failures",
        default="0",
        metavar="N|FILE",
        help="exit 0 though up to N concepts failed, or only those that FILE names, one a line (default: %(default)s)",
    )
    wrong.add_argument(
        "--max-failures", type=int, metavar="N", help="stop, with exit code 3, when more than N concepts have failed"
    )
    wrong.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=limits.checkpoint_seconds,
        metavar="S",
        help="seconds between two checkpoints of a word: the most training that a lost machine costs (default: %(default)s)",
    )
    wrong.add_argument(
        "--stall-seconds",
        type=float,
        default=limits.stall_seconds,
        metavar="S",
        help="give up a worker that finishes no step and no picture for S seconds (default: %(default)s)",
    )
    wrong.add_argument(
        "--concept-seconds",
        type=float,
        metavar="S",
        help="longest time for one attempt at a concept (default: no limit)",
    )
    wrong.add_argument(
        "--placing-seconds",
        type=float,
        default=limits.placing_seconds,
        metavar="S",
        help="give up if the first worker has waited S seconds for a node (default: %(default)s)",
    )
    return parser


def add_gate(parser: argparse.ArgumentParser) -> None:
    asked, gate = Gate(), parser.add_argument_group("gate")
    gate.add_argument(
        "--gate",
        action="store_true",
        help="new words are candidates until they are scored and accepted; from then on in every run of this folder",
    )
    gate.add_argument(
        "--word-drop",
        type=float,
        default=asked.word_drop,
        metavar="X",
        help="hold a word back whose reconstruction fell by more than X and than its interval (default: %(default)s)",
    )
    gate.add_argument(
        "--least-covered",
        type=float,
        default=asked.least_covered,
        metavar="X",
        help="hold a word back that is less than X of the way from the untrained word to real pictures (default: %(default)s)",
    )
    gate.add_argument(
        "--night-drop",
        type=float,
        default=asked.night_drop,
        metavar="X",
        help="hold all words learned again back if a fifth of them lost X beyond chance (default: %(default)s)",
    )
    gate.add_argument(
        "--keep-words",
        type=int,
        default=asked.keep_words,
        metavar="K",
        help="earlier accepted words of a concept to keep for --roll-back (default: %(default)s)",
    )


def main(argv: Sequence[str] | None = None, worker: "type[WorkerProcess] | None" = None) -> int:
    """Returns the exit code. worker: the actor class; None uses WorkerProcess."""
    return start(parser().parse_args(argv), worker)


def start(arguments: argparse.Namespace, worker: "type[WorkerProcess] | None" = None, **changed: Any) -> int:
    """Returns the exit code. changed: fields of the request that another command overrides."""
    log = open_log(arguments)
    try:
        require("--price-per-hour", arguments.price_per_hour, 0, MOST_PRICE)
        request = replace(request_of(arguments), **changed)
    except (StorageError, ValueError) as error:
        log.complain("not started", f"nothing was started.\n{error}")
        return NOT_STARTED
    return show_plan(request, arguments.price_per_hour, log) if arguments.plan else exit_code(request, log, worker)


def show_plan(request: RunRequest, price: float | None, log: Log) -> int:
    """Returns the exit code."""
    try:
        planned = plan_run(request, price)
    except NotStartedError as error:
        log.complain("not started", f"this could not be started.\n{error}")
        return NOT_STARTED
    log.say(
        "plan", "\n".join(lines_of_plan(planned)), new=planned.new, changed=planned.changed, again=planned.again, gone=planned.gone,
        returned=planned.returned, failed={name: failure.reason for name, failure in planned.failed.items()}, done=planned.done,
        seconds=planned.seconds, workers=planned.workers, measured=planned.rate.measured, money=planned.money,
    )  # fmt: skip
    return ALL_DONE


def request_of(arguments: argparse.Namespace) -> RunRequest:
    """Raises ValueError and StorageError."""
    options = parse_storage_options(arguments.storage_option)
    return RunRequest(
        manifest=arguments.manifest,
        output=arguments.output,
        model=arguments.model,
        clip=arguments.clip,
        protocol=arguments.protocol,
        settings=settings_of(arguments, options),
        start_file=start_file_of(arguments),
        model_settings=ModelSettings(
            arguments.dtype,
            arguments.text_encoder_dtype,
            arguments.first_stage_dtype,
            arguments.offload_first_stage,
            arguments.offload_text_encoders,
        ),
        columns=columns_of(arguments.column),
        row_defaults=RowDefaults(arguments.vectors, arguments.initializer),
        skip_invalid=arguments.skip_invalid,
        retry_failed=arguments.retry_failed,
        only_this_manifest=arguments.only_this_manifest,
        accepted_failures=accepted_of(arguments.accept_failures, options),
        retired_days=arguments.retired_days,
        gate=Gate(
            arguments.gate, arguments.word_drop, arguments.least_covered, arguments.night_drop, arguments.keep_words
        ),
        metrics=tuple(arguments.metric),
        repeats=arguments.repeats,
        keep_features=arguments.keep_features,
        storage_options=options,
        placement=Placement(**{each.name: getattr(arguments, each.name) for each in fields(Placement)}),
        limits=Limits(**{each.name: getattr(arguments, each.name) for each in fields(Limits)}),
    )


def accepted_of(said: str, options: Mapping[str, Any]) -> int | frozenset[str]:
    """A count, or the names in a file, one a line. Raises ValueError and StorageError."""
    if said.isdecimal():
        return int(said)
    try:
        return frozenset(name for line in lines_of(Storage(said, options).read_bytes()) if (name := line.strip()))
    except ValueError as error:
        raise ValueError(f"--accept-failures {said}: {error}") from None


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """Our column names -> the manifest's. Raises ValueError."""
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and theirs):
            raise ValueError(f"--column {pair}: it takes OURS=THEIRS, as in concept=SKU")
        if columns.setdefault(ours, theirs) != theirs:
            raise ValueError(f"--column {pair}: {ours} is already {columns[ours]}")
    return columns


def code_of(result: RunResult) -> int:
    return GATE_SAID_NO if result.held else SOME_FAILED if result.unaccepted else ALL_DONE


def exit_code(request: RunRequest, log: Log, worker: "type[WorkerProcess] | None" = None) -> int:
    """Runs the request to its end and returns the exit code; an exception of the run is logged."""
    return finish(request, log, worker)[0]


def finish(request: RunRequest, log: Log, worker: "type[WorkerProcess] | None" = None) -> tuple[int, RunResult | None]:
    """The same, with the result if the run came to its end."""
    try:
        result = invert(request, log, worker)
        return code_of(result), result
    except NotStartedError as error:
        log.complain("not started", f"nothing was started.\n{error}")
        return NOT_STARTED, None
    except KeyboardInterrupt as error:
        log.complain("cut short", f"cut short; {ending_of(error).then}.")
    except (TooManyFailuresError, UnseenPathError) as error:
        log.complain("cut short", f"cut short: {error}\n{ending_of(error).then}.")
    except StorageError as error:
        log.complain("cut short", f"cut short by its storage; {ending_of(error).then}.\n{error}")
    except Exception:  # noqa: BLE001 - exit code 1 would say that the run had finished
        log.complain(
            "cut short", f"cut short by this error; the words that are done are kept.\n{traceback.format_exc()}"
        )
    return CUT_SHORT, None


if __name__ == "__main__":
    sys.exit(main())
