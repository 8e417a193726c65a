"""What status.py says of a run is what the run itself said last."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.application.recorded import record_ending
from jobs.application.requests import NotStartedError, TooManyFailuresError
from jobs.status import lines, read_status
from pipeline.records import Failure
from pipeline.store.publish import publish_failures
from pipeline.store.run_folder import Marker, RunFolder
from pipeline.store.storage import Storage, StorageUnavailableError

GOES_ON = "the same command goes on from here"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROW = Failure("line 3", "manifest", "images is missing")  # without a fingerprint to be recorded under
PICTURES = Failure("b", "images", "no picture", fingerprint="f" * 64)


@pytest.mark.parametrize(
    ("committed", "recorded", "failures", "done"),
    [
        (("a",), (), (), 1), (("a", "b"), (), (), 2),
        (("a",), (), (ROW,), 1), (("a",), (PICTURES,), (PICTURES,), 1), (("a",), (PICTURES,), (PICTURES, ROW), 1),
        (("a", "gone"), (), (), 1), (("a",), (PICTURES,), (), 1), (("a", "gone", "b"), (PICTURES,), (ROW,), 2),
        (("a",), (), tuple(Failure(f"line {each}", "manifest", "bad") for each in range(30)), 1),
    ],
    ids=["fresh", "partial", "bad rows", "bad pictures", "both", "a row taken out", "a failure mended or taken out",
         "changed manifest", "many failures"],
)  # fmt: skip
def test_status_counts_what_the_run_counted(
    committed: tuple[str, ...], recorded: tuple[Failure, ...], failures: tuple[Failure, ...], done: int, tmp_path: Path
) -> None:
    """Catches words of an older manifest counted as done, and bad rows that nobody is told of."""
    run = RunFolder(Storage(str(tmp_path)))
    for name in committed:
        run.commit(Marker(name, "f" * 64, "attempt", 1, 1.0))
    for failure in recorded:
        run.record_failure(failure)
    publish_failures(run, failures)
    counts = {"total": done + len(failures), "done": done, "failed": len(failures)}
    status = read_status(run, {"finished": True, "updated": NOW.isoformat(), "counts": counts}, NOW)
    assert {"total": status.total, "done": status.done, "failed": status.failed} == counts
    assert status.state == "finished"
    assert {each.concept for each in status.failures} <= {each.concept for each in failures}
    assert len(status.failures) == min(len(failures), 20)


def at(seconds: int) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize("state", ["running", "cut short", "scoring"])
def test_status_of_a_run_that_has_not_ended_counts_what_its_driver_counted(state: str, tmp_path: Path) -> None:
    """Catches markers counted of words that the manifest has no more, and bad rows that nobody is told of."""
    run = RunFolder(Storage(str(tmp_path)))
    for name in ("a", "gone", "before"):
        run.commit(Marker(name, "f" * 64, "attempt", 1, 1.0))
    run.record_failure(Failure("mended", "images", "no picture", fingerprint="f" * 64))
    run.record_failure(PICTURES)
    publish_failures(run, (PICTURES, ROW))
    run.write_json("progress.json", {"state": state, "done": 2, "failed": 2, "total": 9, "updated": at(5)})
    made = {"finished": False, "updated": at(0), "counts": {"total": 9, "done": 1, "failed": 1}}
    status = read_status(run, made, NOW + timedelta(seconds=6))
    assert (status.state, status.total, status.done, status.failed, status.silent) == (state, 9, 2, 2, 1)
    # Before they are published, those on record are shown, and no more than failed.
    assert {each.concept for each in status.failures} == ({"b", "line 3"} if state == "cut short" else {"b", "mended"})


@pytest.mark.parametrize("before", ["cut short", "scoring", "running"])
def test_status_of_a_run_taken_up_again_is_not_what_the_last_driver_said(before: str, tmp_path: Path) -> None:
    run = RunFolder(Storage(str(tmp_path)))
    run.commit(Marker("a", "f" * 64, "attempt", 1, 1.0))
    run.write_json("progress.json", {"state": before, "done": 7, "failed": 1, "total": 9, "updated": at(-60)})
    made = {"finished": False, "updated": at(0), "counts": {"total": 5, "done": 3, "failed": 0}}
    status = read_status(run, made, NOW)
    assert (status.state, status.total, status.done, status.failed, status.failures) == ("running", 5, 3, 0, ())
    published = made | {"counts": {"total": 5, "done": 4, "failed": 1}, "seconds_until": {"last_word": 9.0}}
    publish_failures(run, (PICTURES,))
    status = read_status(run, published, NOW)
    assert (status.state, status.done, status.failed, status.failures) == ("scoring", 4, 1, (PICTURES,))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), f"cut short; {GOES_ON}"),
        (
            StorageUnavailableError("no answer of s3://b"),
            f"by its storage: no answer of s3://b; once the storage answers, {GOES_ON}",
        ),
        (
            TooManyFailuresError("3 failed\n  more"),
            "cut short; 3 failed   more; mend the failed concepts, or raise --max-failures",
        ),
        (
            NotStartedError("no worker could load it"),
            "no worker could load it; the same command would end like this again",
        ),
        (
            RuntimeError("the weights changed"),
            "by an error, RuntimeError: the weights changed; the words that are done are kept",
        ),
    ],
)
@pytest.mark.parametrize("before", [None, "running", "scoring"])
def test_status_of_a_run_that_ended_early_says_why_and_what_the_same_command_would_do(
    before: str | None, error: BaseException, said: str, tmp_path: Path
) -> None:
    """Catches a run that scores for ever, and "the same command goes on" where it would end in the same way."""
    run = RunFolder(Storage(str(tmp_path)))
    if before:
        run.write_json("progress.json", {"state": before, "done": 0, "failed": 0, "total": 9, "updated": at(5)})
    record_ending(run, error, {"total": 9, "done": 2, "failed": 0})
    made = {"finished": False, "updated": at(0), "manifest": "m.csv", "model": "mini", "settings": {"steps": 3}}
    status = read_status(run, made, datetime.now(UTC))
    assert (status.state, status.done) == ("cut short", 2)
    last = lines(status, "run", made)[-1]
    assert " ".join(said.split()) in last
    assert (GOES_ON in last) == (GOES_ON in said)


def test_a_driver_that_died_while_it_scored_is_doubted(tmp_path: Path) -> None:
    run = RunFolder(Storage(str(tmp_path)))
    run.write_json("progress.json", {"state": "scoring", "done": 2, "failed": 0, "total": 2, "updated": at(5)})
    made = {"finished": False, "updated": at(0), "manifest": "m.csv", "model": "mini", "settings": {"steps": 3}}
    assert lines(read_status(run, made, NOW + timedelta(seconds=9)), "run", made)[-1] == "state     scoring"
    said = lines(read_status(run, made, NOW + timedelta(minutes=9)), "run", made)[-1]
    assert (
        "scoring, during which nothing is written for long; its driver has written nothing for 8 min 55 s; if it is dead"
        in said
    )
