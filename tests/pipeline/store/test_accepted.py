"""Which word is public, on a real disk: candidates, promotion, earlier words, roll-back; whoever dies in between."""

import io
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.promote
import pipeline.store.catalogue.accepted as accepting
from eval.nightly.acceptance import Rule
from eval.scores.score_tables import SCORES, ScoredUnder
from eval.scores.summary import ConceptSummary, Summary, summarise
from jobs.application.night.gate_words import begin_gate, gate_words, held_since, promote, roll_back_words
from jobs.application.requests import Listener
from pipeline.store.catalogue.accepted import JUDGED, TABLE, JudgedWord, accepted_of, public_rows, read_judged, waiting
from pipeline.store.catalogue.chosen import forget_chosen
from pipeline.store.catalogue.retired import bring_back, retire
from pipeline.store.lease import lease
from pipeline.store.parts import create_layout, part_path, write_table
from pipeline.store.publish import publish
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import Storage
from tests.eval.nightly.test_acceptance import word
from tests.pipeline.store.test_old_run import DONE, MADE
from tests.pipeline.store.test_old_run import UNDER as OLD_UNDER
from tests.pipeline.store.test_publish import commit, fingerprint_of

UNDER = ScoredUnder("quick-v1", "mini", "m", "mini", "c", "dpm++", 8, 5.0)
KEEP = 2


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder(Storage(str(tmp_path / "run")))
    made.write_json("run.json", {})
    begin_gate(made)
    create_layout(made, 2)
    return made


def night(
    run: RunFolder, steps: list[tuple[int, ...]] | None = None, keep: int = KEEP, **scores: float
) -> dict[str, str]:
    """These words are learned, with these scores; the bytes of a word are its score. Returns what is held back.

    steps: gets what the gate says of how far it has come. keep: how many earlier words stay.
    """
    heard = [] if steps is None else steps
    words = [word(name, score, fingerprint=f"{score:.3f}".replace(".", "") * 16) for name, score in scores.items()]
    for each in words:
        run.storage.write_bytes(run.candidate_path(each.concept), f"{each.reconstruction}".encode())
    return gate_words(run, summary(words), Rule(), keep, Listener(), lambda *each: heard.append(each))


def summary(words: list[ConceptSummary]) -> Summary:
    nothing = summarise(SCORES.empty_table(), EMBEDDINGS.empty_table(), [], np.random.default_rng(0), UNDER)
    return replace(nothing, concepts=tuple(words))


def public(run: RunFolder, name: str = "owl") -> str:
    return run.storage.read_bytes(run.word_path(name)).decode()


def test_a_word_is_public_when_it_is_accepted_and_the_one_before_stays_public_until_then(run: RunFolder) -> None:
    """Catches a word that fell from 0.75 to 0.42 and was in everybody's hands before anyone looked."""
    assert night(run, owl=0.75, taxi=0.41).keys() == {"taxi"}
    assert public(run) == "0.75"
    assert not run.storage.exists(run.word_path("taxi"))
    assert night(run, owl=0.5).keys() == {"owl"}
    assert public(run) == "0.75"
    assert waiting(run) == {"owl", "taxi"}
    assert night(run, owl=0.76) == {}
    assert public(run) == "0.76"
    assert waiting(run) == {"taxi"}
    assert [word.state for word in read_judged(run) if word.concept == "owl"] == ["previous", "accepted"]


def test_a_candidate_is_judged_once_and_promoted_by_name_or_all_at_once(run: RunFolder) -> None:
    steps: list[tuple[int, ...]] = []
    night(run, steps, owl=0.75, taxi=0.41, cup=0.42, jug=0.8)
    assert steps == [(1, 2), (2, 2)]
    assert gate_words(run, summary([word("taxi", 0.41, fingerprint="0410" * 16)]), Rule(), KEEP, Listener()) == {}
    assert held_since(run, date(2026, 1, 1)).keys() == {"cup", "taxi"}
    with pytest.raises(
        ValueError, match="no candidate of this name was judged in this run folder; candidates are cup, taxi"
    ):
        promote(run, ["owl"], KEEP)
    assert promote(run, ["taxi"], KEEP) == ("taxi",)
    assert public(run, "taxi") == "0.41"
    night(run, bowl=0.42)
    steps.clear()
    assert promote(run, [], KEEP, everything=True, step=lambda *each: steps.append(each)) == ("bowl", "cup")
    assert steps == [(1, 2), (2, 2)]
    assert waiting(run) == set()


def test_the_last_words_stay_and_a_roll_back_goes_to_each_of_them_in_turn(run: RunFolder) -> None:
    for score in (0.70, 0.71, 0.72, 0.73):
        night(run, owl=score)
    assert sorted(run.storage.names("_previous")) == [
        "owl@0710071007100710.safetensors",
        "owl@0720072007200720.safetensors",
    ]
    for wanted in ("0.72", "0.71"):
        roll_back_words(run, ["owl"])
        assert public(run) == wanted
        assert accepted_of(read_judged(run))["owl"].reconstruction == float(wanted)
    with pytest.raises(ValueError, match="no word of it was accepted before"):
        roll_back_words(run, ["owl"])


@pytest.mark.parametrize("after", range(4))
def test_a_driver_that_dies_while_it_accepts_a_word_loses_neither_word(
    after: int, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(run, owl=0.75)
    writes = 0
    for name in ("write_bytes", "replace", "create_exclusive", "delete"):
        original = getattr(Storage, name)

        def dies(self: Storage, path: str, *rest: bytes, original: object = original) -> object:
            nonlocal writes
            if "lease" not in path:
                writes += 1
                if writes > after:
                    raise KeyboardInterrupt
            return original(self, path, *rest)  # type: ignore[operator]

        monkeypatch.setattr(Storage, name, dies)
    writes = -1  # the candidate's own
    with pytest.raises(KeyboardInterrupt):
        night(run, owl=0.76)
    monkeypatch.undo()
    assert public(run) in ("0.75", "0.76")
    night(run, owl=0.76)
    assert public(run) == "0.76"
    assert waiting(run) == set()
    roll_back_words(run, ["owl"])
    assert public(run) == "0.75"


def test_a_word_whose_file_is_gone_is_neither_promoted_nor_rolled_back_to(run: RunFolder) -> None:
    """Catches a command that says done, and a public word that is still the other one."""
    night(run, owl=0.75, taxi=0.41)
    night(run, owl=0.76)
    run.storage.delete(run.candidate_path("taxi"))
    with pytest.raises(ValueError, match=r"--promote taxi: its file candidates/taxi\.safetensors is not there"):
        promote(run, ["taxi"], KEEP)
    for name in run.storage.names("_previous"):
        run.storage.delete(f"_previous/{name}")
    with pytest.raises(ValueError, match="--roll-back owl: _previous/owl@"):
        roll_back_words(run, ["owl"])
    assert public(run) == "0.76"
    assert accepted_of(read_judged(run)).keys() == {"owl"}


@pytest.mark.parametrize("tear", [None, b"", b"torn"])
def test_a_torn_word_costs_no_other_word(run: RunFolder, tear: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    """Catches a file in words/ for which no picture of any word can be drawn any more."""
    night(run, owl=0.75)
    rows = [{"concept": name, "fingerprint": "new", "text_encoder": "a", "placeholder": f"<{name}>", "vectors": [[1.0]]}
            for name in ("owl", "taxi")]  # fmt: skip
    write_table(run, part_path("embeddings", 0, 1), pa.Table.from_pylist(rows, EMBEDDINGS))
    run.storage.delete(run.word_path("owl"))
    if tear is not None:
        run.storage.write_bytes(run.word_path("owl"), tear)
    assert [row["concept"] for row in public_rows(run, {"a": "clip_l"})] == ["taxi"]
    assert "words/owl.safetensors is damaged" in caplog.text


def test_who_accepts_for_longer_than_a_lease_lasts_keeps_it(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a second command that judges words between the reading and the writing of the first."""
    copy, begun, ended = accepting._copy, threading.Event(), []

    def slow(*arguments: Any, **named: Any) -> None:
        begun.set()
        time.sleep(0.2)
        copy(*arguments, **named)

    def second() -> None:
        assert begun.wait(10)
        with lease(run.storage, accepting.LEASE):
            ended.append("second")

    monkeypatch.setattr(accepting, "_copy", slow)
    monkeypatch.setattr("pipeline.store.lease.POLL_SECONDS", 0.01)
    words = [JudgedWord(f"w{number}", "f", "candidate", "2026") for number in range(8)]
    for each in words:
        run.storage.write_bytes(run.candidate_path(each.concept), b"new")
    with ThreadPoolExecutor(1) as other:
        waits = other.submit(second)
        with lease(run.storage, accepting.LEASE, seconds=0.6) as storage:
            accepting.accept(RunFolder(storage), [], words, KEEP)
            ended.append("first")
        waits.result(10)
    assert ended == ["first", "second"]


@pytest.mark.parametrize("command", ["begin", "forget"])
def test_who_begins_the_gate_or_forgets_words_waits_for_who_judges_them(
    command: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches verdicts that another run wrote over with the table as it was before."""
    monkeypatch.setattr("pipeline.store.lease.POLL_SECONDS", 0.01)
    owl, taxi = (JudgedWord(name, "f", "accepted", "2026") for name in ("owl", "taxi"))
    if command == "begin":
        run.storage.delete(TABLE)
    else:
        accepting.write_judged(run, [owl])
    with ThreadPoolExecutor(1) as other:
        with lease(run.storage, accepting.LEASE) as storage:
            held = RunFolder(storage)
            read_judged(held)
            waits = (
                other.submit(begin_gate, run)
                if command == "begin"
                else other.submit(accepting.forget_judged, run, {"owl"})
            )
            time.sleep(0.3)
            assert not waits.done()
            accepting.write_judged(held, [owl, taxi])
        waits.result(10)
    assert read_judged(run) == ([owl, taxi] if command == "begin" else [taxi])


def test_what_is_no_word_in_the_folder_of_chosen_words_stays(run: RunFolder) -> None:
    """Catches a run without --choose that empties a folder which is not its own."""
    run.storage.write_bytes("chosen/owl.safetensors", b"x")
    run.storage.write_bytes("chosen/notes.txt", b"mine")
    forget_chosen(run)
    assert run.storage.names("chosen") == ["notes.txt"]


def test_words_from_before_the_gate_are_accepted_as_they_are(run: RunFolder) -> None:
    run.storage.write_bytes(run.word_path("owl"), b"old")
    gate_words(run, summary([word("owl", 0.41)]), Rule(), KEEP, Listener())
    assert accepted_of(read_judged(run))["owl"].reconstruction == 0.41


def test_a_folder_that_gets_a_gate_keeps_its_words_to_compare_with_and_to_go_back_to(tmp_path: Path) -> None:
    """Catches the first gated night, on which a word falls with nothing to compare it with, and the one before is lost."""
    run = RunFolder(Storage(str(shutil.copytree(MADE / "run", tmp_path / "run"))))
    old = {name: run.storage.read_bytes(run.word_path(name)) for name in DONE}
    begin_gate(run)
    accepted = accepted_of(read_judged(run))
    assert {name: each.fingerprint for name, each in accepted.items()} == DONE
    before = accepted["cat"].reconstruction
    assert before is not None
    low, far = before - 0.35, replace(summary([]), scored_under=OLD_UNDER)
    worse = replace(word("cat", low, fingerprint="new" * 10), covered=0.9)
    run.storage.write_bytes(run.candidate_path("cat"), b"worse")
    held = gate_words(run, replace(far, concepts=(worse,)), Rule(), KEEP, Listener())
    assert held["cat"].startswith(f"its reconstruction fell from {before:.3f} to {low:.3f}")
    assert run.storage.read_bytes(run.word_path("cat")) == old["cat"]
    promote(run, ["cat"], KEEP)
    roll_back_words(run, ["cat"])
    assert run.storage.read_bytes(run.word_path("cat")) == old["cat"]


def test_a_roll_back_never_returns_to_a_word_that_was_taken_back(run: RunFolder) -> None:
    """Catches a bad word that comes back because it was accepted last before the present one, and pushes out a good one."""
    for score in (0.70, 0.71):
        night(run, owl=score)
    roll_back_words(run, ["owl"])  # from 0.71
    night(run, owl=0.72)
    roll_back_words(run, ["owl"])
    assert public(run) == "0.7"
    for score in (0.73, 0.74):  # two may stay, and two were taken back
        night(run, owl=score)
    roll_back_words(run, ["owl", "owl"])
    assert public(run) == "0.7"
    assert {word.reconstruction for word in read_judged(run)} == {0.7, 0.73, 0.74}


@pytest.mark.parametrize("keep", [1, 3])
def test_the_one_word_that_stays_is_never_one_that_was_taken_back(keep: int, run: RunFolder) -> None:
    for score in (0.70, 0.71):
        night(run, keep=keep, owl=score)
    roll_back_words(run, ["owl"])
    night(run, keep=keep, owl=0.72)
    kept = {word.reconstruction for word in read_judged(run) if word.state == "previous"}
    assert kept == ({0.70} if keep == 1 else {0.70, 0.71})
    roll_back_words(run, ["owl"])
    assert public(run) == "0.7"
    with pytest.raises(ValueError, match="no word of it was accepted before"):
        roll_back_words(run, ["owl"])


def test_a_roll_back_that_one_name_ends_changes_no_other(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    night(run, owl=0.70, taxi=0.70)
    night(run, owl=0.71)
    assert jobs.promote.main([run.storage.url, "--roll-back", "owl", "--roll-back", "taxi"]) == 2
    assert "nothing was changed.\n--roll-back taxi: no word of it" in capsys.readouterr().err
    assert public(run) == "0.71"
    assert jobs.promote.main([run.storage.url, "--roll-back", "owl", "--promote-all"]) == 2
    assert "--promote and --roll-back: give one of them at a time" in capsys.readouterr().err
    assert public(run) == "0.71"


@pytest.mark.parametrize("state", ["candidate", "accepted", "taken back"])
def test_a_word_that_retires_and_returns_is_the_one_that_its_row_asks_for(state: str, run: RunFolder) -> None:
    """Catches a returning row whose file has the numbers of the word before it, or that never gets a file."""
    now = fingerprint_of("ant", 1)
    first, last = (
        replace(word("ant", score), fingerprint=fp) for score, fp in ((0.7, fingerprint_of("ant")), (0.71, now))
    )
    for each, made in ((first, b"first"), (last, b"last")):
        run.storage.write_bytes(run.candidate_path("ant"), made)
        if each is first or state != "candidate":
            gate_words(run, summary([each]), Rule(), KEEP, Listener())
    if state == "taken back":
        roll_back_words(run, ["ant"])
    commit(run, "ant", seed=1)
    publish(run, {"ant": now}, create_layout(run, 2), gated=True)
    run.storage.write_bytes(run.word_path("ant"), b"last" if state == "accepted" else b"first")
    retire(run, [], create_layout(run, 2), date(2026, 1, 1))
    assert not run.storage.exists(run.word_path("ant"))
    bring_back(run, {"ant": now})
    assert publish(run, {"ant": now}, create_layout(run, 2), gated=True) == ()
    assert run.storage.read_bytes(run.candidate_path("ant")) == b"last"


def test_a_word_that_retires_takes_its_candidate_and_its_earlier_words_along(run: RunFolder) -> None:
    night(run, owl=0.70)
    night(run, owl=0.71)
    night(run, owl=0.41)
    accepting.forget_judged(run, {"owl"})
    assert retire(run, [], create_layout(run, 2), date(2026, 1, 1)) == ()
    assert read_judged(run) == []
    assert not run.storage.names("_previous")
    assert waiting(run) == set()


def test_the_job_lists_promotes_and_rolls_back(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    night(run, owl=0.75)
    night(run, owl=0.5)
    url = run.storage.url
    assert jobs.promote.main([url]) == 0
    assert "owl: its reconstruction fell from 0.750 to 0.500" in capsys.readouterr().out
    assert jobs.promote.main([url, "--promote", "owl"]) == 0
    assert public(run) == "0.5"
    assert jobs.promote.main([url, "--roll-back", "owl"]) == 0
    assert public(run) == "0.75"
    assert jobs.promote.main([f"{url}/nowhere", "--promote-all"]) == 2


STRANGE = {
    "numbers": dict.fromkeys(JUDGED.names, 1), "lists": {name: [1] for name in JUDGED.names},
    "nothing": dict.fromkeys(JUDGED.names),
    "no time": {name: None if name == "since" else 0.5 if name.startswith(("rec", "edit")) else "x" for name in JUDGED.names},
    "other columns": {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("option", [(), ("--promote-all",), ("--roll-back", "x")])
def test_a_strange_table_of_the_gate_ends_in_a_sentence(
    what: str, option: tuple[str, ...], run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback from a stranger's run folder."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([STRANGE[what], STRANGE[what]]), sink)
    run.storage.write_bytes(TABLE, sink.getvalue())
    assert jobs.promote.main([run.storage.url, *option]) == jobs.promote.NOT_STARTED
    assert "gate/words.parquet is damaged" in capsys.readouterr().err
