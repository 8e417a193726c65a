"""Prompts that name a word without its brackets, folders that hold pictures already, and words no program can load."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.api import NotStartedError, PictureRequest, generate
from jobs.application.drawing.pictures import _bare_words, _unused
from jobs.export_words import warning
from pipeline.store.catalogue.accepted import public_rows
from pipeline.store.catalogue.listed import read_lists, write_list
from pipeline.store.parts import read_layout, read_parts, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import Storage
from tests.job_process import LEARNED, FinishedRun

KNOWN = ["<owl>", "<red-taxi>", "sks"]


@pytest.mark.parametrize("prompt", ["a photo of an owl", "an Owl.", "my red-taxi, at night"])
def test_a_words_name_without_its_brackets_is_refused_with_what_to_write(prompt: str) -> None:
    """Catches a picture of any owl, taken for a picture of this one."""
    with pytest.raises(ValueError, match=r"without brackets is plain text, not the word <(owl|red-taxi)>; write <"):
        _bare_words([prompt], KNOWN)


def test_beside_another_word_it_is_said_and_other_prompts_are_left_alone() -> None:
    assert _bare_words(["<red-taxi> and an owl"], KNOWN) == [("<red-taxi> and an owl", "<owl>")]
    for prompt in (
        "a photo of <owl>",
        "<OWL> as an owl",
        "a photo of sks",
        "an owlet",
        "a taxi in red",
        "<owl> and owls",
    ):
        assert _bare_words([prompt], KNOWN) == []


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("three Owls", "<owl>"), ("a red taxi", "<red-taxi>"), ("Red Taxis at night", "<red-taxi>"), ("red_taxi", "<red-taxi>")],
)  # fmt: skip
def test_a_words_name_in_the_plural_or_apart_is_said_and_drawn(prompt: str, word: str) -> None:
    """Catches pictures of any owls, taken for pictures of this one; they may be meant, so nothing is refused."""
    assert _bare_words([prompt], KNOWN) == [(prompt, word)]


def test_a_second_call_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Catches the first call's contact sheet overwritten by the second's."""
    output = Storage(str(tmp_path / "generated"))
    for wanted in ("generated", "generated/2", "generated/3"):
        found = _unused(output)
        assert found.url == str(tmp_path / wanted)
        found.write_bytes("contact-sheet.png", b"sheet")


def test_words_that_no_model_of_the_program_can_load_are_warned_of() -> None:
    assert warning({768}, "a1111") == ""
    assert warning({128}, "diffusers") == ""
    assert "a1111 loads no model for words 128 numbers wide; the shipped model draws 64-pixel drawings" in warning(
        {128}, "a1111"
    )
    assert warning({100, 768}, "comfyui") == "comfyui loads no model for words 100 numbers wide"


def test_a_retired_word_is_not_offered_and_a_prompt_that_names_it_is_told_where_it_is(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    """Catches a deleted product that is still drawn, and a night cut short after the list was written."""
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    run = RunFolder(Storage(str(folder)))
    (before,) = read_lists(run)
    keys = {"text_encoder": "text_encoder"}
    assert {row["concept"] for row in public_rows(run, keys)} == set(LEARNED)
    write_list(run, replace(before, concepts=("mixed",)))
    assert {row["concept"] for row in public_rows(run, keys)} == {"mixed"}
    request = PictureRequest(str(folder), ("a photo of <owl>",))
    with pytest.raises(NotStartedError, match="this run has no word <owl>"):
        generate(request)
    for day in ("20260130", "20260131"):
        run.write_json(f"_retired/owl@0123456789abcdef@{day}@marker.json", {})
    with pytest.raises(NotStartedError, match="this run has no word <owl>"):  # a candidate, whose word is in no file
        generate(request)
    for day in ("20260130", "20260131"):
        run.storage.write_bytes(f"_retired/owl@0123456789abcdef@{day}@word.safetensors", b"")
    kept = f"{folder}/_retired/owl@0123456789abcdef@20260131@word.safetensors"
    told = f"owl is no longer in the manifest, so its word is retired; .* --word {kept}"
    with pytest.raises(NotStartedError, match=told):
        generate(request)
    rows = read_parts(run, "embeddings", read_layout(run)["embeddings"], EMBEDDINGS).to_pylist()
    named = pa.Table.from_pylist(
        [row | {"placeholder": "<hoot>"} for row in rows if row["concept"] == "owl"], EMBEDDINGS
    )
    write_table(run, "_retired/owl@0123456789abcdef@20260131@embedding.parquet", named)
    with pytest.raises(NotStartedError, match=told):
        generate(replace(request, prompts=("a photo of <hoot>",)))
    with pytest.raises(NotStartedError, match=told.replace("20260131", "20260130")):
        generate(request)
