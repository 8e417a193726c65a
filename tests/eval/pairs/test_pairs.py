"""Two words in one picture: who meets whom, what is drawn, and that presence is told on pictures whose order is beyond doubt."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import eval.judges.judge
import eval.pairs.pair_run
from eval.pairs.meeting import Meeting, meetings_of
from eval.pairs.pair_pictures import HELD, PAIR_PICTURES, Held, pair_requests
from eval.pairs.pair_run import _score_part, read_pair_pictures, read_pair_scores
from eval.pairs.pair_summary import Pairs, pair_sheet, pairs_json, read_pairs, summarise_pairs
from eval.pairs.presence import PairScore, pair_score, view_similarities
from eval.report.report_page import Background, render_report
from eval.scores.drawn_pictures import RunModel
from eval.scores.score_run import Judgement, conditions
from pipeline.protocols import PROTOCOLS, Protocol, ProtocolError
from pipeline.protocols.reading import read_protocol
from pipeline.records import Concept
from pipeline.settings import ModelSettings
from pipeline.store.parts import part_path, read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.eval.report.test_report_page import concept as report_concept
from tests.eval.report.test_report_page import summary_of
from tests.tiny_run import PROTOCOL, Colours, evaluate, learn

PAIRED = replace(PROTOCOL, pairs={"object": ("a photo of {a} and {b}",)}, pair_images=2)
RED, GREEN = (255, 30, 30), (30, 255, 30)


def concepts(*names: str, **carried: str) -> dict[str, Concept]:
    return {
        name: Concept(name, (), f"<{name}>", noun="cat", carried={"partner": carried[name]} if name in carried else {})
        for name in names
    }


def styles(*names: str) -> dict[str, Concept]:
    return {name: Concept(name, (), f"<{name}>", kind="style") for name in names}


def test_every_object_meets_one_other_and_each_is_once_the_other() -> None:
    known = concepts(*(f"c{number}" for number in range(20)))
    found, failures = meetings_of(known, PAIRED, 0)
    assert [each.a for each in found] == sorted(known)
    assert sorted(each.b for each in found) == sorted(known)
    assert all(each.a != each.b for each in found)
    assert not failures
    assert meetings_of(known, PAIRED, 0)[0] == found != meetings_of(known, PAIRED, 1)[0]


def test_a_new_concept_changes_the_partner_of_one_other() -> None:
    """Catches a growing manifest that has all pictures of all pairs drawn anew."""
    known = concepts(*(f"c{number}" for number in range(20)))
    before = {each.a: each.b for each in meetings_of(known, PAIRED, 0)[0]}
    after = {each.a: each.b for each in meetings_of({**known, **concepts("new")}, PAIRED, 0)[0]}
    assert sum(before[name] != after[name] for name in before) == 1


def test_a_column_says_who_meets_whom_and_one_that_cannot_be_had_is_told() -> None:
    known = concepts("a", "b", "c", "d", a="c", b="gone", c="c")
    found, failures = meetings_of(known, PAIRED, 0)
    assert next(each.b for each in found if each.a == "a") == "c"
    assert all(each.a != each.b for each in found)
    assert {each.concept: each.reason for each in failures} == {
        "b": "its partner is 'gone', which has no word in this run; it was drawn beside another",
        "c": "its partner is 'c', itself; it was drawn beside another",
    }


def test_objects_are_drawn_in_styles_and_styles_beside_nothing() -> None:
    protocol = replace(PAIRED, pairs={"object": ("{a} and {b}",), "style": ("{a} in the style of {b}",)})
    found, _ = meetings_of({**concepts("cat", "dog"), **styles("oil", "ink")}, protocol, 0)
    assert {each.a for each in found} == {"cat", "dog"}
    assert {each.b for each in found if "style" in each.template} <= {"oil", "ink"}
    assert len(found) == 4
    assert meetings_of(concepts("alone"), protocol, 0) == ([], ())


def test_a_word_less_is_the_same_sentence_and_noise_with_the_class_in_its_place() -> None:
    known = concepts("ant", "bee")
    requests = pair_requests(Meeting("ant", "bee", "{a} and {b}!"), known["ant"], known["bee"], PAIRED, 0)
    assert [(each.held, each.prompt) for each in requests if each.index == 0] == [
        ("both", "<ant> and <bee>!"), ("a", "<ant> and cat!"), ("b", "cat and <bee>!"), ("neither", "cat and cat!")
    ]  # fmt: skip
    assert len({each.seed for each in requests}) == PAIRED.pair_images


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    pixels = np.empty((16, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = left, right
    return Image.fromarray(pixels)


def similarities(*pictures: Image.Image) -> np.ndarray:
    training = Colours().encode_images([halves(RED, RED), halves(GREEN, GREEN)])
    return view_similarities(pictures, training, Colours())


def test_two_things_side_by_side_are_both_seen_and_one_that_swallowed_the_other_is_told() -> None:
    grey = (127, 120, 127)
    both, a, b, none = (
        halves(RED, GREEN), halves(RED, grey), halves(grey, GREEN), halves(grey, grey)
    )  # fmt: skip
    base: dict[Held, Any] = {"a": similarities(a, a), "b": similarities(b, b), "neither": similarities(none, none)}
    meeting = Meeting("red", "green", "{a} and {b}")
    found = pair_score(meeting, {"both": similarities(both, both), **base})
    assert (found.both, found.only_a, found.only_b) == (1, 0, 0)
    assert (found.both_alone, found.both_nouns, found.told_apart) == (0, 0, 1)
    assert found.presence_a > found.floor_a
    assert found.alone_b > found.floor_b
    swallowed = pair_score(meeting, {"both": similarities(both, a, b, none), **base})
    assert (swallowed.both, swallowed.only_a, swallowed.only_b) == (0.25, 0.25, 0.25)


def test_a_word_that_cannot_be_seen_alone_has_no_share() -> None:
    """Catches an untrained word that counts as present in half of all pictures."""
    same = similarities(halves(GREEN, GREEN), halves(GREEN, GREEN))
    found = pair_score(Meeting("a", "b", "t"), {"both": same, "a": same, "b": same, "neither": same})
    assert math.isnan(found.both)
    (line,) = summarise_pairs([found])
    assert pairs_json(Pairs((line,), ()))[0]["both"]["value"] is None


@pytest.fixture
def run(epsilon_model: Path, tmp_path: Path) -> RunFolder:
    folder = RunFolder(Storage(str(tmp_path / "run")))
    learn(folder, epsilon_model, {"ant": 1, "bee": 2, "cow": 3}, PAIRED)
    return folder


@pytest.fixture
def judgement(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> Judgement:
    torch.set_num_threads(1)
    for module in (eval.judges.judge, eval.pairs.pair_run, eval.scores.score_run):
        monkeypatch.setattr(module, "load_scorer", lambda name, device: Colours())
    return Judgement(
        PAIRED, "tiny", "m0", "colours", "cpu", RunModel(str(epsilon_model), "cpu", ModelSettings(), seed=0)
    )


def score_all(run: RunFolder, judgement: Judgement, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What score_pairs does, its tasks in this process; returns the parts that had something to do."""
    done: list[int] = []

    class Here:
        def __init__(self, task: Callable[..., object]) -> None:
            self.task = task

        def remote(self, run: RunFolder, number: int, *told: object) -> object:
            done.append(number)
            return self.task(run, number, *told)

    monkeypatch.setattr("ray.remote", lambda **_: Here)
    monkeypatch.setattr("ray.get", lambda some: some)
    counts: list[tuple[int, int]] = []
    scored = eval.pairs.pair_run.score_pairs(run, judgement, conditions(judgement), lambda *count: counts.append(count))
    assert scored == ()
    assert counts == ([(3, 3)] if done else [])
    return done


def test_a_runs_pairs_are_drawn_scored_once_and_shown(
    run: RunFolder, judgement: Judgement, monkeypatch: pytest.MonkeyPatch, epsilon_model: Path
) -> None:
    evaluate(run, judgement)
    under = conditions(judgement)
    assert score_all(run, judgement, monkeypatch) == [0]
    scores = read_pair_scores(run, under)
    assert {each.a for each in scores} == {"ant", "bee", "cow"}
    meeting = next(iter(scores))
    rows = read_pair_pictures(run, under, meeting)
    assert [(row["held"], row["index"]) for row in rows] == [(held, index) for held in HELD for index in range(2)]
    pictures = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    assert all(np.abs(pictures[0].astype(int) - other).max() > 0 for other in (pictures[2], pictures[4], pictures[6]))
    assert score_all(run, judgement, monkeypatch) == [], "what is scored is left alone"

    pairs = read_pairs(run, under)
    assert pairs is not None
    assert [line.pairs for line in pairs.lines] == [3]
    page = render_report(summary_of(report_concept(0, "ant")), {}, (), {}, "t", Background(pairs=pairs))
    assert "Two words in one picture" in page
    assert page.count('class="sheet" src="data:image/webp') == 3

    learn(run, epsilon_model, {"ant": 4, "bee": 2, "cow": 3}, PAIRED)
    assert read_pair_scores(run, under).keys() != scores.keys(), (
        "scores of a word that was learned anew are not its own"
    )
    before = {row["path"]: row["bytes"] for row in pictures_of(run, judgement)}
    evaluate(run, judgement)
    assert score_all(run, judgement, monkeypatch) == [0]
    changed = {
        path
        for path, png in ((row["path"], row["bytes"]) for row in pictures_of(run, judgement))
        if before[path] != png
    }
    assert changed, "its pictures are drawn anew"
    assert not any("ant" not in path for path in changed)


def pictures_of(run: RunFolder, judgement: Judgement) -> list[dict[str, Any]]:
    table = read_table(run, part_path(f"pairs/{judgement.protocol.label}/pictures", 0, 1))
    return [] if table is None else [dict(each) for each in table["image"].to_pylist()]


def test_two_words_that_do_not_fit_into_the_models_context_are_a_failure_with_its_reason(
    run: RunFolder, judgement: Judgement
) -> None:
    evaluate(run, judgement)
    meeting = Meeting("ant", "bee", "{a} and {b}" + " very" * 80)
    training = dict.fromkeys(("ant", "bee"), np.ones(48, np.float32))
    (failure,) = _score_part(run, 0, [meeting], judgement, conditions(judgement), training)
    assert (failure.concept, failure.stage) == ("ant", "sampling")
    assert "beside bee" in failure.reason


def test_a_damaged_picture_of_a_pair_is_a_failure_and_ends_no_report(run: RunFolder, judgement: Judgement) -> None:
    """Catches a stranger's picture that reaches a decoder nobody asked for, or that ends the night."""
    evaluate(run, judgement)
    meeting, under = Meeting("ant", "bee", "{a} and {b}"), conditions(judgement)
    training = dict.fromkeys(("ant", "bee"), np.ones(48, np.float32))
    assert _score_part(run, 0, [meeting], judgement, under, training) == []
    assert pair_sheet(run, under, meeting)
    path = part_path(f"pairs/{judgement.protocol.label}/pictures", 0, 1)
    table = read_table(run, path)
    assert table is not None
    torn = [{**each, "image": {**each["image"], "bytes": b"GIF89a" + bytes(90)}} for each in table.to_pylist()]
    write_table(run, path, pa.Table.from_pylist(torn, table.schema))
    assert pair_sheet(run, under, meeting) == b""
    (failure,) = _score_part(run, 0, [meeting], judgement, under, training)
    assert "beside bee: a picture of the run folder is no PNG that can be read" in failure.reason
    assert _score_part(run, 0, [meeting], judgement, under, training) == [], "they are drawn anew"


def test_a_hostile_name_in_a_prompt_stays_text_in_the_report() -> None:
    score = PairScore("x", "y", "{a} <script>alert(1)</script> {b}", 1, *[0.5] * 14)
    page = render_report(
        summary_of(report_concept(0, "x")), {}, (), {}, "t", Background(pairs=Pairs(summarise_pairs([score]), ()))
    )
    assert "<script>alert" not in page


def test_pairs_are_read_and_what_is_wrong_with_them_is_said() -> None:
    whole = '[edits]\nobject = ["{} at night"]\n[pairs]\n'
    read = read_protocol((whole + 'object = ["{a} and {b}"]').encode(), "mine.toml")
    assert read.pairs == {"object": ("{a} and {b}",)}
    assert Protocol.of_dict(read.as_dict()) == read
    for wrong, said in (
        ('object = ["{a} alone"]', r"\[pairs\] object, prompt 1 is '\{a\} alone'"),
        ('object = ["{a} {b} {class}"]', "prompt 1 is"),
        ('object = ["{a} {b}", "{a} {b}"]', "holds a prompt twice"),
        ('animal = ["{a} {b}"]', "animal means nothing"),
        ("object = 3", "takes a list of prompts"),
        ("object = [3]", "prompt 1 is 3"),
    ):
        with pytest.raises(ProtocolError, match=said):
            read_protocol((whole + wrong).encode(), "mine.toml")
    assert PROTOCOLS["quick-v2"].label == "quick-v2"
    assert all(not PROTOCOLS[name].pairs for name in ("quick", "paper", "dreambench", "customconcept101"))


def test_pictures_have_one_schema_from_the_first_part_on() -> None:
    assert pa.concat_tables([PAIR_PICTURES.empty_table()]).schema == PAIR_PICTURES
