"""A phase that lasts says how far it has come, and one that does not is silent."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import jobs.application.evaluation
import jobs.application.night.plan_run
import jobs.application.phases
import jobs.application.run
import jobs.application.run_inputs
import jobs.application.run_scores
import jobs.application.two_runs
import jobs.diff
import jobs.status
from jobs import evaluate, export_words, invert_all
from jobs.application.phases import Counts, phase
from jobs.application.requests import Listener
from pipeline.store.storage import Storage
from tests.job_process import LEARNED, FinishedRun
from tests.pipeline.store.test_old_run import MADE


class Heard(Listener):
    def __init__(self, enough: int) -> None:
        self.lines: list[str] = []
        self.enough, self.done = enough, threading.Event()

    def say(self, event: str, text: str, **fields: Any) -> None:
        assert (event, fields["phase"]) == ("phase", "scoring 3 words")
        self.lines.append(text)
        if len(self.lines) >= self.enough:
            self.done.set()


def test_a_long_phase_is_told_while_it_lasts_and_no_longer() -> None:
    """Catches ten silent minutes, after which somebody stops a run that was well."""
    heard = Heard(3)
    with phase(heard, "scoring 3 words", first=0.01):
        assert heard.done.wait(60)
    count = len(heard.lines)
    assert all(line.startswith("scoring 3 words, for ") for line in heard.lines)
    assert not any(thread.name == "scoring 3 words" for thread in threading.enumerate())
    assert len(heard.lines) == count


def test_a_phase_that_counts_says_how_far_it_has_come() -> None:
    heard = Heard(1)
    with phase(heard, "scoring 3 words", first=0.01) as counts:
        counts.of("scored", "words")(1200, 4000)
        assert heard.done.wait(60)
    assert heard.lines[0] == "scored 1,200 of 4,000 words, 0 s"


@pytest.mark.long
def test_every_phase_of_a_run_counts_to_its_end(
    finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a phase whose line would say 0 of 400 for ten minutes. The words are learned already; all else is done again."""
    reached: dict[str, Counts] = {}

    @contextmanager
    def recorded(_: Listener, what: str) -> Iterator[Counts]:
        yield reached.setdefault(what, Counts())

    for module in (
        jobs.application.phases, jobs.application.run_inputs, jobs.application.run, jobs.application.run_scores,
        jobs.application.evaluation, jobs.application.night.plan_run, export_words,
    ):  # fmt: skip
        monkeypatch.setattr(module, "phase", recorded)
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    for gone in ("scores", "features", "report"):
        shutil.rmtree(folder / gone)
    made = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**made, "finished": False}), encoding="utf-8")
    manifest, _, _, *rest = finished_run.arguments
    assert invert_all.main([manifest, "--output", str(folder), *rest]) == 1
    said = {what: (counts.verb, counts.done, counts.total, counts.things) for what, counts in reached.items()}
    words = len(LEARNED)
    assert said["publishing"] == ("published", words, words, "words")
    assert said["drawing and scoring"] == ("scored", words, words, "words")
    assert said["reporting"] == ("read the pictures of", words, words, "words for the report")
    verb, looked_at, total, _ = said["reading the pictures"]
    assert (verb, looked_at) == ("looked at the pictures of", total)
    assert total >= words
    assert {"reading the manifest", "reading the model's files", "waiting for Ray"} <= said.keys()

    reached.clear()
    assert invert_all.main([manifest, "--output", str(folder), *rest, "--plan"]) == 0
    counts = reached["reading the pictures"]
    assert counts.done == counts.total >= words

    assert export_words.main([str(folder), "--layout", "diffusers", "--output", str(tmp_path / "exported")]) == 0
    counts = reached["exporting"]
    assert (counts.verb, counts.done, counts.total) == ("wrote", words, words)

    reached.clear()
    assert evaluate.main([str(folder), "--dino", "outline"]) == 0
    said = {what: (counts.verb, counts.done, counts.total, counts.things) for what, counts in reached.items()}
    assert {"reading the runs and their models", "loading the judges", "waiting for Ray"} <= said.keys()
    assert said["scoring by outline"] == ("scored", words, words, "words by outline")


def test_reading_and_comparing_large_run_folders_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a status or a comparison of a hundred thousand words in a store that is silent for minutes."""
    reached: dict[str, Counts] = {}
    said_in: dict[str, list[str]] = {}

    @contextmanager
    def recorded(_: Listener, what: str) -> Iterator[Counts]:
        inside.append(what)
        yield reached.setdefault(what, Counts())
        inside.pop()

    inside: list[str] = []
    read = Storage.read_bytes

    def watched(storage: Storage, path: str, *more: Any, **limits: Any) -> bytes:
        said_in.setdefault(path.split("/")[0], []).extend(inside or ["nothing"])
        return read(storage, path, *more, **limits)

    monkeypatch.setattr(Storage, "read_bytes", watched)
    for module in (jobs.status, jobs.application.two_runs):
        monkeypatch.setattr(module, "phase", recorded)
    run = str(shutil.copytree(MADE / "run", tmp_path / "run"))
    made = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "run" / "run.json").write_text(json.dumps({**made, "updated": "2026-01-01T00:00:00+00:00"}), "utf-8")
    assert jobs.status.main([run]) == 0
    assert set(said_in["run.json"]) == {"reading the run folder"}
    assert jobs.diff.main([run, run, "--output", str(tmp_path / "diff")]) == 0
    assert set(said_in["scores"]) == {"reading the scores", "comparing"}
    assert set(said_in["grids"]) == {"writing the page"}
    counts = reached["writing the page"]
    assert (counts.verb, counts.done, counts.total, counts.things) == ("read the pictures of", 2, 2, "concepts")


def test_a_short_phase_says_nothing_and_one_that_fails_stops_telling() -> None:
    heard = Heard(1)
    with pytest.raises(KeyError), phase(heard, "scoring 3 words"):
        raise KeyError
    assert heard.lines == []
    assert not any(thread.name == "scoring 3 words" for thread in threading.enumerate())
