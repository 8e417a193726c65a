"""Show the state of a run: concepts done, failed and in training, reasons of failures, rate and remaining time.

  python jobs/status.py runs/demo
  python jobs/status.py s3://bucket/run-7 --log-format json

Everything is read from the run folder: it needs no cluster and no GPU, works while the run goes on, and from any machine that
reaches the folder.

Exit codes: 0 shown; 2 there is no such run.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.application.phases import phase
from jobs.application.progress import duration
from jobs.cli.arguments import add_log, add_storage
from jobs.cli.log import open_log
from pipeline.records import Failure
from pipeline.store.damaged import DamagedFileError
from pipeline.store.parts import read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import FAILURES
from pipeline.store.storage import (
    Storage,
    StorageError,
    StorageNotFoundError,
    parse_storage_options,
    without_credentials,
)
from pipeline.text_files import paragraph

TOLD, NOT_STARTED = 0, 2
SHOWN = 20
READERS = 16  # threads, which mostly wait for the store
SILENT_SECONDS = 60.0  # a driver at work writes progress.json every few seconds


@dataclass(frozen=True, slots=True)
class Status:
    """total: concepts of the manifest, None until a driver has written it. done: concepts with a word.
    retired: words that are kept although no manifest lists them.

    failures: the first of the `failed` ones. training: concept -> step of its last checkpoint, for the first of those
    `in_training`. state: "running", "scoring", "cut short" or "finished". eta: seconds to go.
    silent: seconds since the driver last wrote to the run folder. why, then: of a run that was cut short, the reason ("" for an
    interruption) and what to do; "" where its driver said nothing of it.
    """

    total: int | None
    done: int
    failed: int
    retired: int
    failures: tuple[Failure, ...]
    in_training: int
    training: dict[str, int]
    per_minute: float | None
    eta: float | None
    state: str
    silent: float
    why: str = ""
    then: str = ""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="status.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, as given to invert_all.py's --output")
    add_storage(parser)
    add_log(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        run = RunFolder(Storage(arguments.run, parse_storage_options(arguments.storage_option)))
        with phase(log, "reading the run folder"):
            configuration = run.read_run("model", "manifest", "settings.steps", "finished", "updated")
            status = read_status(run, configuration, datetime.now(UTC))
    except (StorageError, ValueError) as error:
        log.complain("not started", f"there is no such run.\n{error}")
        return NOT_STARTED
    log.say("status", paragraph(lines(status, without_credentials(run.storage.url), configuration)),
            total=status.total, done=status.done, failed=status.failed, retired=status.retired, training=status.training,
            failures={failure.concept: failure.reason for failure in status.failures},
            concepts_per_minute=status.per_minute, eta_seconds=status.eta, state=status.state,
            silent_seconds=status.silent, why=status.why, then=status.then)  # fmt: skip
    return TOLD


def read_status(run: RunFolder, configuration: dict[str, Any], now: datetime) -> Status:
    """configuration: run.json.

    The counts are what the driver itself wrote last, in run.json or progress.json: the folder may hold words and failures of
    concepts that are no longer in the manifest, and a failure without a fingerprint is in the published table only.
    """
    progress = _progress(run)
    old = datetime.fromisoformat(configuration["updated"]).astimezone(UTC)
    if not progress or configuration["finished"] or datetime.fromisoformat(progress["updated"]).astimezone(UTC) < old:
        # None, that of an earlier driver, or of this one before it published its words.
        published = "last_word" in configuration.get("seconds_until", {})
        state = "finished" if configuration["finished"] else "scoring" if published else "running"
        progress = {**configuration.get("counts", {}), "state": state, "updated": configuration["updated"]}
    else:
        published = progress["state"] == "cut short"
    state = progress["state"]
    committed = {name for name, _ in run.committed()}
    recorded = sorted(key for key in run.failed() if key[0] not in committed)
    if {"done", "failed"} <= progress.keys():
        done, failed = int(progress["done"]), int(progress["failed"])
    else:  # a folder whose driver said nothing yet
        done, failed = len(committed), len(recorded)
    training = [] if state == "finished" else [name for name in run.checkpointed() if name not in committed]
    with ThreadPoolExecutor(READERS) as readers:
        if failed and (published or state == "finished"):
            failures = _published_failures(run)
        else:
            read = readers.map(lambda key: _failure(run, key), recorded[: min(SHOWN, failed)])
            failures = tuple(failure for failure in read if failure is not None)
        checkpoints = readers.map(run.checkpoint, training[:SHOWN])
        return Status(
            total=configuration.get("counts", {}).get("total"),
            done=done,
            failed=failed,
            retired=int(progress.get("retired", 0)),
            failures=failures,
            in_training=len(training),
            training={checkpoint.concept: checkpoint.step for checkpoint in checkpoints if checkpoint is not None},
            per_minute=progress.get("concepts_per_minute"),
            eta=progress.get("eta_seconds"),
            state=state,
            why=str(progress.get("why", "")),
            then=str(progress.get("then", "")),
            silent=(now - datetime.fromisoformat(progress["updated"]).astimezone(UTC)).total_seconds(),
        )


def _published_failures(run: RunFolder) -> tuple[Failure, ...]:
    """The first failures of the published table."""
    table = read_parts(run, "failures", 1, FAILURES).slice(0, SHOWN)
    return tuple(Failure(**each) for each in table.to_pylist())


def _progress(run: RunFolder) -> dict[str, Any]:
    """progress.json; {} if it does not exist yet or is damaged."""
    try:
        progress = run.read_json("progress.json")
        datetime.fromisoformat(progress["updated"]).astimezone(UTC)
        counts: dict[str, Any] = {name: int(progress[name]) for name in ("done", "failed") if name in progress}
        return {**progress, **counts, "state": str(progress["state"])}
    except (StorageNotFoundError, DamagedFileError, KeyError, TypeError, ValueError):
        return {}


def _failure(run: RunFolder, key: tuple[str, str]) -> Failure | None:
    try:
        return run.failure(*key)
    except (StorageNotFoundError, DamagedFileError):
        return None  # the concept has been retried since the listing, or will be


def lines(status: Status, url: str, configuration: dict[str, Any]) -> list[str]:
    """The status as lines of text."""
    steps = configuration["settings"]["steps"]
    said = [
        f"run       {url}",
        f"          {without_credentials(str(configuration['manifest']))}, model {configuration['model']}",
        f"done      {status.done}" + (f" of {status.total} concepts" if status.total else " concepts"),
        f"failed    {status.failed}",
        *(f"  {failure.concept}: {failure.stage}: {failure.reason}" for failure in status.failures),
        *([f"  and {status.failed - SHOWN} more"] if status.failed > SHOWN else []),
        *([f"retired   {status.retired}"] if status.retired else []),
        f"training  {status.in_training}",
        *(f"  {name}: step {step} of at most {steps} at its last checkpoint" for name, step in status.training.items()),
        *([f"  and {status.in_training - SHOWN} more"] if status.in_training > SHOWN else []),
    ]
    if status.state in ("running", "scoring") and status.silent > SILENT_SECONDS:
        scoring = "scoring, during which nothing is written for long; " if status.state == "scoring" else ""
        said.append(
            f"state     {scoring}its driver has written nothing for {duration(status.silent)}; if it is dead, run the same command "
            "to resume"
        )
    elif status.state == "running":
        to_go = f", about {duration(status.eta)} to go" if status.eta else ""
        said.append(f"state     running, {status.per_minute or 0:.1f} concepts a minute{to_go}")
    else:
        said.append(f"state     {status.state}" + "".join(f"; {each}" for each in (status.why, status.then) if each))
    return said


if __name__ == "__main__":
    sys.exit(main())
