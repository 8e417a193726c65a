"""events.py: rows that neither a second driver nor a kill doubles or loses, and a line in the log at once."""

import logging
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.logged_events import now
from pipeline.records import Event
from pipeline.store import events
from pipeline.store.damaged import say_damaged
from pipeline.store.events import EventLog, read_events
from pipeline.store.parts import write_table
from pipeline.store.retry import StorageUnavailableError, keep_trying
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage

LOST = Event("2026-01-01T00:00:00.000+00:00", "worker_lost", "SIGKILL", "tried again", "a1", "n1", output="last\nlines")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Storage(str(tmp_path)))


def test_each_driver_has_its_rows_once_however_often_it_writes(run: RunFolder, tmp_path: Path) -> None:
    one, other = EventLog(run), EventLog(run)
    for number in range(3):
        one.record(replace(LOST, cause=f"one {number}"))
        one.flush()
        other.record(replace(LOST, cause=f"other {number}"))
        other.flush()
    one.flush()
    assert sorted(event.cause for event in read_events(run)) == [
        f"{who} {n}" for who in ("one", "other") for n in range(3)
    ]
    assert len(list((tmp_path / "events").iterdir())) == 2
    assert len(pd.read_parquet(tmp_path / "events")) == 6
    assert read_events(run)[0].output == LOST.output


def test_events_that_a_stranger_wrote_end_no_report(run: RunFolder) -> None:
    """Catches times that cannot be compared and causes that are none, in a table that can be read."""
    rows = [asdict(LOST) | {name: None} for name in ("time", "cause", "worker", "output")] + [asdict(LOST)]
    write_table(run, "events/strange.parquet", pa.Table.from_pylist(rows, events.EVENTS))
    write_table(run, "events/stranger.parquet", pa.Table.from_pylist([asdict(LOST) | {"time": [1]}]))
    assert read_events(run) == [LOST]


def test_a_run_in_which_nothing_happened_leaves_no_file(run: RunFolder, tmp_path: Path) -> None:
    EventLog(run).flush()
    assert not (tmp_path / "events").exists()


def test_many_events_are_few_files(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "ROWS", 4)
    log = EventLog(run)
    for number in range(10):
        log.record(replace(LOST, cause=str(number)))
        log.flush()
    assert sorted(int(event.cause) for event in read_events(run)) == list(range(10))
    assert len(list((tmp_path / "events").iterdir())) == 3


def test_an_event_is_a_line_in_the_log_at_once(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    log = EventLog(run)
    log.record(LOST)
    log.record(Event(now(), "phase", "the model was loaded", seconds=1.25))
    assert log.phases == {"the model was loaded": 1.2}
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "worker lost: SIGKILL; tried again [worker a1, node n1]"),
        ("INFO", "phase: the model was loaded (1.2 s)"),
    ]
    assert log.counts == {"worker_lost": 1}


def test_no_row_and_no_line_holds_a_credential(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Catches what a lost worker, or an error of its store, happened to print."""
    run = RunFolder(Storage(str(tmp_path)))
    caplog.set_level(logging.INFO, "pipeline")
    log = EventLog(run)
    log.record(
        replace(LOST, cause="no answer from https://me:hunter2@host/x", output="Authorization: Bearer abcdefgh12345")
    )
    log.flush()
    (row,) = read_events(run)
    everything = caplog.text + row.cause + row.output
    assert "no answer from https://***@host/x" in everything
    assert "hunter2" not in everything
    assert "abcdefgh12345" not in everything


def test_a_damaged_file_costs_its_own_rows_only(run: RunFolder, tmp_path: Path) -> None:
    log = EventLog(run)
    log.record(LOST)
    log.flush()
    (tmp_path / "events" / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "events" / "README").write_bytes(b"x")
    assert read_events(run) == [LOST]


def test_a_store_out_of_reach_loses_no_row(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.retry.ATTEMPTS", 1)
    log = EventLog(run)
    log.record(LOST)
    (tmp_path / "events").write_bytes(b"in the way")
    log.flush()
    (tmp_path / "events").unlink()
    log.flush()
    assert read_events(run) == [LOST]


def test_a_damaged_file_and_a_store_that_gave_no_answer_are_events(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a run that ends well and does not say that it met a torn file on the way."""
    monkeypatch.setattr("pipeline.store.retry.ATTEMPTS", 1)
    log, counted = EventLog(run), list[Event]()
    log.listeners.append(counted.append)
    with log.listening():
        say_damaged("embeddings/part-0.parquet", "4 bytes")
        with pytest.raises(StorageUnavailableError):
            keep_trying("read", "s3://me:hunter2@bucket/a", {}, lambda: (_ for _ in ()).throw(ConnectionError("reset")))
    say_damaged("not/heard", "")
    damaged, silent = read_events(run)
    assert (damaged.kind, damaged.action) == ("file_damaged", "it counts as absent")
    assert damaged.cause == "embeddings/part-0.parquet is damaged (4 bytes)"
    assert (silent.kind, silent.action) == ("store_unavailable", "what needed the file fails")
    assert "no answer in 1 attempts" in silent.cause
    assert "hunter2" not in silent.cause
    assert log.counts == {"file_damaged": 1, "store_unavailable": 1}
    assert counted == [damaged, silent]
    assert len(caplog.records) == 3, "each is one line in the log, also without a listener"
