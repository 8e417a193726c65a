"""What status.py says of a run that has ended is what the run itself said last."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.status import read_status
from pipeline.records import Failure
from pipeline.store.publish import publish_failures
from pipeline.store.run_folder import Marker, RunFolder
from pipeline.store.storage import Storage

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
