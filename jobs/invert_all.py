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
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from jobs.api import Gate, Limits, NotStartedError, Placement, RunRequest, RunResult, TooManyFailuresError, invert
from jobs.application.night.plan_run import PlannedRun, lines_of_plan, plan_run
from jobs.application.recorded import ending_of
from jobs.application.requests import require
from jobs.cli.log import Log, open_log
from jobs.cli.run_arguments import (
    accepted_of,
    add_gate,
    add_input_and_output,
    add_limits,
    add_look_ahead,
    add_placement,
    columns_of,
)
from jobs.cli.training_arguments import add_training, settings_of, start_file_of
from pipeline.inputs.manifest import RowDefaults
from pipeline.scheduling.shared_paths import UnseenPathError
from pipeline.settings import ModelSettings
from pipeline.store.storage import StorageError, parse_storage_options
from pipeline.text_files import paragraph

if TYPE_CHECKING:
    from pipeline.scheduling.worker_process import WorkerProcess

MOST_PRICE = 1e9
ALL_DONE, SOME_FAILED, NOT_STARTED, CUT_SHORT, GATE_SAID_NO = 0, 1, 2, 3, 4


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="invert_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "manifest", metavar="MANIFEST", help="CSV, JSONL or Parquet with one concept a row; a path or any fsspec URL"
    )
    add_input_and_output(parser.add_argument_group("input and output"))
    add_training(parser.add_argument_group("how a word is learned"))
    add_placement(parser.add_argument_group("where it runs"))
    add_gate(parser.add_argument_group("gate"))
    add_look_ahead(parser.add_argument_group("look ahead"))
    add_limits(parser.add_argument_group("limits and logging"))
    return parser


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
        planned = plan_run(request, price, log)
    except NotStartedError as error:
        log.complain("not started", f"this could not be started.\n{error}")
        return NOT_STARTED
    say_plan(planned, log)
    return ALL_DONE


def say_plan(planned: PlannedRun, log: Log) -> None:
    log.say(
        "plan", paragraph(lines_of_plan(planned)), new=planned.new, changed=planned.changed, again=planned.again, gone=planned.gone,
        returned=planned.returned, respelled=planned.respelled, done=planned.done,
        failed={name: failure.reason for name, failure in planned.failed.items()},
        seconds=planned.seconds, workers=planned.workers, measured=planned.rate.measured, money=planned.money,
    )  # fmt: skip


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
        choose=arguments.choose,
        keep_features=arguments.keep_features,
        storage_options=options,
        placement=Placement(**{each.name: getattr(arguments, each.name) for each in fields(Placement)}),
        limits=Limits(**{each.name: getattr(arguments, each.name) for each in fields(Limits)}),
    )


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
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001 - exit code 1 would say that the run had finished; libraries in Rust raise others
        log.complain(
            "cut short", f"cut short by this error; the words that are done are kept.\n{traceback.format_exc()}"
        )
    return CUT_SHORT, None


if __name__ == "__main__":
    sys.exit(main())
