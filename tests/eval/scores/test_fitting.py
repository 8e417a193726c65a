"""Prompts that are too long for the judge, or for the model, are told before anything is drawn."""

from dataclasses import replace
from pathlib import Path

import pytest

from eval.judges.clip import load_clip
from eval.scores.drawn_pictures import undrawn
from eval.scores.fitting import refuse_long_texts, shortest
from pipeline.protocols import QUICK
from pipeline.protocols.protocol import ProtocolError
from pipeline.records import Concept
from pipeline.store.parts import read_layout
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.tiny_run import learn

LONG = replace(QUICK, name="long", edits={**QUICK.edits, "object": ("a photo of {} " + "very " * 40,)})
NAMED = replace(QUICK, name="named", edits={**QUICK.edits, "object": ("a photo of {} {class} at night",)})


def test_a_prompt_that_the_judge_cannot_read_whole_is_named() -> None:
    """Catches a night that draws every picture and then scores no word."""
    with pytest.raises(
        ProtocolError, match=r"long-v1 does not suit the judge: the prompt 'a photo of  very .* is too long for mini"
    ):
        refuse_long_texts(load_clip(), LONG, [Concept("owl", (), "<owl>")])
    refuse_long_texts(load_clip(), QUICK, [Concept("owl", (), "<owl>")])


def test_a_class_that_is_too_long_is_its_own_words_failure() -> None:
    """Catches a whole night that is refused because of one concept's class."""
    concepts = [Concept("owl", (), "<owl>", noun="bird"), Concept("long", (), "<long>", noun="very " * 40)]
    assert [each.name for each in shortest(concepts, NAMED)] == ["owl"]
    refuse_long_texts(load_clip(), NAMED, shortest(concepts, NAMED))
    assert shortest([Concept("none", (), "<none>")], NAMED) == []


def test_pictures_that_are_there_need_no_model_to_be_looked_at(epsilon_model: Path, tmp_path: Path) -> None:
    """Catches a judge's night on a machine that cannot hold the model, refused though nothing is left to draw."""
    run = RunFolder(Storage(str(tmp_path / "run")))
    learn(run, epsilon_model, {"ant": 1, "bee": 1})
    from tests.tiny_run import PROTOCOL

    parts = read_layout(run)
    every, missing = undrawn(run, 0, ["ant", "bee"], parts, PROTOCOL, 0)
    assert ([each.name for each in every], missing) == (["ant", "bee"], [])
    every, missing = undrawn(run, 0, ["ant"], parts, replace(PROTOCOL, plain_images=9), 0)
    assert [each.name for each in missing] == ["ant"]
