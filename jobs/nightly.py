"""One command a night: plan, learn, score, gate, publish, compare with earlier nights, report, and tell whoever has to know.

  python jobs/nightly.py s3://bucket/manifest.csv --output s3://bucket/catalogue
  python jobs/nightly.py manifest.csv --output runs/catalogue --group-by shop --accept-failures 2 --webhook "$WEBHOOK"

It takes the options of invert_all.py. Words pass the gate before they are public (--gate), and a bad row is a failure of its own
(--skip-invalid). The same command again goes on where the last one ended. A night that does not end with 0 is told to the webhook;
the figures of every night go to --prometheus.

Exit codes: 0 a good night; 1 some concepts failed or have no score; 2 nothing was started; 3 the run was interrupted; 4 the gate
said no: words were held back, or tonight's are worse than on the last good night.
"""

import argparse
import math
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster.destination import default_output
from jobs import invert_all
from jobs.api import (
    EvaluationRequest,
    EvaluationResult,
    NotComparedError,
    NotStartedError,
    RunRequest,
    RunResult,
    evaluate,
)
from jobs.application.night.alerts import AlertError, Alerts
from jobs.application.night.plan_run import PlannedRun, lines_of_plan, plan_run
from jobs.application.requests import require
from jobs.cli.log import Log, show_log
from jobs.invert_all import ALL_DONE, CUT_SHORT, GATE_SAID_NO, NOT_STARTED, SOME_FAILED
from pipeline.store.storage import Storage, StorageError, without_credentials
from pipeline.text_files import paragraph

if TYPE_CHECKING:
    from pipeline.scheduling.worker_process import WorkerProcess

SAID = {
    ALL_DONE: "a good night", SOME_FAILED: "some concepts failed or have no score", NOT_STARTED: "nothing was started",
    CUT_SHORT: "the run was interrupted", GATE_SAID_NO: "the gate said no",
}  # fmt: skip
TOLD = ("gate", "end", "night")  # events of the log that a message repeats


@dataclass(frozen=True)
class NightLog(Log):
    """Keeps what a message has to say. heard: complaints, and the results of the night."""

    heard: list[str] = field(default_factory=list)

    def say(self, event: str, text: str, **fields: Any) -> None:
        super().say(event, text, **fields)
        if event in TOLD:
            self.heard.append(text)

    def complain(self, event: str, text: str, **fields: Any) -> None:
        super().complain(event, text, **fields)
        self.heard.append(text)


def parser() -> argparse.ArgumentParser:
    parser = invert_all.parser()
    parser.prog, parser.description = "nightly.py", __doc__
    night = parser.add_argument_group("night")
    night.add_argument(
        "--night", metavar="NAME", help="name of this night; nights are ordered by name (default: today, UTC)"
    )
    night.add_argument(
        "--history", metavar="URL", help="folder with the results of earlier nights (default: in the output)"
    )
    night.add_argument(
        "--baseline", metavar="NIGHT", help="a second night to compare with (default: the first good night)"
    )
    night.add_argument("--group-by", metavar="COLUMN", help="manifest column; each of its values is reported and gated")
    night.add_argument(
        "--webhook",
        default=os.environ.get("WORDMINT_WEBHOOK"),
        metavar="URL",
        help='receives a POST of {"text": ...} after a night that was not good (default: $WORDMINT_WEBHOOK)',
    )
    night.add_argument(
        "--prometheus",
        metavar="FILE|URL",
        help="Prometheus figures of the night: a file for node_exporter's textfile collector, or a Pushgateway's URL",
    )
    return parser


def main(argv: Sequence[str] | None = None, worker: "type[WorkerProcess] | None" = None) -> int:
    """Returns the exit code. worker: the actor class; None uses WorkerProcess."""
    arguments, began = parser().parse_args(argv), time.time()
    log = NightLog(arguments.log_format)
    show_log(arguments.log_format, verbose=arguments.verbose)
    try:
        alerts = Alerts(arguments.webhook, arguments.prometheus)
    except ValueError as error:
        log.complain("not started", f"nothing was started.\n{error}")
        return NOT_STARTED
    if arguments.plan:
        return _plan(arguments, log)
    code, run, scored = _night(arguments, log, worker)
    url = without_credentials(run.url if run else arguments.output or default_output(arguments.manifest))
    try:
        alerts.export(_figures(code, began, run, scored))
    except AlertError as error:
        log.complain("figures", f"the figures of this night were not delivered: {error}")
    try:
        if code != ALL_DONE:
            alerts.send(
                without_credentials("\n".join([f"wordmint {url}: {SAID[code]} (exit code {code})", *log.heard])),
                run=url, exit_code=code,
            )  # fmt: skip
    except AlertError as error:
        log.complain("alert", f"nobody was told: {error}")
    return code


def _plan(arguments: argparse.Namespace, log: Log) -> int:
    """Says what the night would do; it refuses what the night would refuse. Returns the exit code."""
    try:
        _, _, planned = _prepared(arguments, log)
    except (NotStartedError, StorageError, ValueError) as error:
        log.complain("not started", f"this could not be started.\n{error}")
        return NOT_STARTED
    invert_all.say_plan(planned, log)
    return ALL_DONE


def _prepared(arguments: argparse.Namespace, log: Log) -> tuple[RunRequest, EvaluationRequest, PlannedRun]:
    """Raises NotStartedError, StorageError and ValueError for what would be refused, the end of the night included."""
    require("--price-per-hour", arguments.price_per_hour, 0, invert_all.MOST_PRICE)
    request = invert_all.request_of(arguments)
    # A bad row must not cost the others their night; it is a failure like any other.
    gate, output = replace(request.gate, asked=True), request.output or default_output(request.manifest)
    request = replace(request, gate=gate, output=output, skip_invalid=True)
    evaluation = _evaluation_of(arguments, request)
    planned = plan_run(request, arguments.price_per_hour, log)
    check_night(evaluation, planned.columns)
    return request, evaluation, planned


def _night(
    arguments: argparse.Namespace, log: Log, worker: "type[WorkerProcess] | None"
) -> tuple[int, RunResult | None, EvaluationResult | None]:
    """The exit code, and what the run and the evaluation came to, as far as they came."""
    try:
        request, evaluation, planned = _prepared(arguments, log)
        log.say("plan", paragraph(lines_of_plan(planned)[1:]))
    except (NotStartedError, StorageError, ValueError) as error:
        log.complain("not started", f"nothing was started.\n{error}")
        return NOT_STARTED, None, None
    code, run = invert_all.finish(request, log, worker)
    if run is None or not run.done:
        return code, run, None
    try:
        scored = evaluate(evaluation, log)
    except (NotComparedError, NotStartedError) as error:
        log.complain(
            "not compared", f"the words are learned, but the night was not compared with earlier ones.\n{error}"
        )
        return max(code, SOME_FAILED), run, None
    except KeyboardInterrupt:
        log.complain("cut short", "the words are learned; the comparison was cut short.")
        return CUT_SHORT, run, None
    except StorageError as error:
        log.complain("cut short", f"the words are learned; the comparison was cut short by its storage.\n{error}")
        return CUT_SHORT, run, None
    except Exception:  # noqa: BLE001 - without its code and its message nobody would hear of it
        said = traceback.format_exc()
        log.complain("cut short", f"the words are learned; the comparison was cut short by this error.\n{said}")
        return CUT_SHORT, run, None
    if scored.verdict.worse:
        code = GATE_SAID_NO
    return max(code, ALL_DONE if scored.good or scored.verdict.worse else SOME_FAILED), run, scored


def check_night(request: EvaluationRequest, columns: frozenset[str]) -> None:
    """Raises ValueError and StorageError for what would be refused after the night's words are learned."""
    from eval.nightly.history import NIGHT
    from eval.scores.groups import refuse_unknown_column

    if request.night is not None and not NIGHT.fullmatch(request.night):
        raise ValueError(f"--night {request.night!r}: it takes letters, digits, '.', ':', '_' and '-', 41 at most")
    history = Storage(request.history or f"{request.runs[0].rstrip('/')}/history", request.storage_options)
    if request.baseline and not any(name.startswith(f"{request.baseline}@") for name in history.names()):
        raise ValueError(f"the baseline {request.baseline!r} is no night in {without_credentials(history.url)}")
    if request.group_by:
        refuse_unknown_column(request.group_by, columns)


def _evaluation_of(arguments: argparse.Namespace, request: RunRequest) -> EvaluationRequest:
    return EvaluationRequest(
        (str(request.output),), model=request.model, clip=request.clip, history=arguments.history, night=arguments.night,
        fail_on_drop=request.gate.night_drop, group_by=arguments.group_by, baseline=arguments.baseline,
        metrics=request.metrics, keep_features=request.keep_features, storage_options=request.storage_options,
        ray_address=request.placement.ray_address,
    )  # fmt: skip


def _figures(code: int, began: float, run: RunResult | None, scored: EvaluationResult | None) -> dict[str, float]:
    now = time.time()
    figures: dict[str, float] = {
        "wordmint_night_finished_timestamp_seconds": round(now, 1), "wordmint_night_exit_code": code,
        "wordmint_night_seconds": round(now - began, 1),
    }  # fmt: skip
    if run is not None:
        figures |= {
            "wordmint_night_done": len(run.done), "wordmint_night_failed": len(run.failures),
            "wordmint_night_retired": len(run.retired), "wordmint_night_held": len(run.held),
        }  # fmt: skip
    for summary in scored.summaries[:1] if scored else ():
        for metric in ("reconstruction", "editability"):
            if not math.isnan(value := summary.estimate(metric).value):
                figures[f"wordmint_night_{metric}"] = round(value, 6)
    return figures


if __name__ == "__main__":
    sys.exit(main())
