"""What a word file says of itself: keys of ModelSpec 1.0.1, the same bytes every time, and broken metadata that costs nothing."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from pipeline.models.families import FAMILIES
from pipeline.store.model_spec import MOST_STATED, WordSpec, stated_in
from pipeline.store.word_files import Layout, WordFileError, decode_word, encode_word, is_negative, stated_model
from tests.pipeline.store.test_word_files import vectors, with_metadata

SPEC = WordSpec("my-owl", "stable-diffusion-v1", "object", 512, "2026-11-27")
WORD = {"text_encoder": vectors(2)}
XL = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
ENCODE = """
import sys
from tests.pipeline.store.test_model_spec import SPEC, WORD
from pipeline.store.word_files import encode_word
sys.stdout.buffer.write(encode_word("<owl>", WORD, spec=SPEC))
"""


def metadata_in(data: bytes, folder: Path) -> dict[str, str]:
    """As safetensors' own reader has it."""
    (folder / "word.safetensors").write_bytes(data)
    with safe_open(folder / "word.safetensors", "np") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize("layout", ["diffusers", "a1111", "comfyui", "onetrainer"])
def test_a_word_file_has_what_the_specification_asks_for(layout: Layout, tmp_path: Path) -> None:
    """The required keys and what they hold, as the specification's tables have them."""
    data = encode_word("<owl>", WORD, layout=layout, spec=SPEC)
    said = metadata_in(data, tmp_path)
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    assert {key.removeprefix("modelspec."): value for key, value in said.items() if key.startswith("modelspec.")} == {
        "sai_model_spec": "1.0.1", "architecture": "stable-diffusion-v1/textual-inversion", "implementation": "diffusers",
        "title": "my-owl", "trigger_phrase": "<owl>", "tags": "textual inversion, object", "resolution": "512x512",
        "date": "2026-11-27", "is_negative_embedding": "false",
        "hash_sha256": f"0x{hashlib.sha256(tensors).hexdigest()}",
    }  # fmt: skip
    name, found = decode_word(data)
    assert (name, found["text_encoder"].tobytes()) == ("<owl>", WORD["text_encoder"].tobytes())


def test_the_same_word_is_the_same_bytes_in_every_process() -> None:
    """Catches safetensors' own order of the keys, which is another one each time."""
    here = {encode_word("<owl>", WORD, spec=SPEC) for _ in range(20)}
    there = subprocess.run([sys.executable, "-c", ENCODE], capture_output=True, check=True).stdout
    assert here == {there}


def test_metadata_changes_no_number_and_keeps_tensors_aligned() -> None:
    word = {"text_encoder": vectors(1), "text_encoder_2": np.ones((1, 3), np.float32)}
    for title in ("a", "ab", "abc", "é" * 50, '"}'):
        data = encode_word("<owl>", word, XL, spec=WordSpec(title, "x", "style"))
        assert int.from_bytes(data[:8], "little") % 8 == 0
        name, found = decode_word(data)
        assert name == "<owl>"
        assert {key: value.tolist() for key, value in found.items()} == {
            XL[encoder]: value.tolist() for encoder, value in word.items()
        }


@pytest.mark.parametrize(
    ("phrase", "name"),
    [("<theirs>", "<theirs>"), (" owl ", "owl"), ("a photo of owl", ""), ("", ""), ("x" * 200, ""), ("a\u0007b", "")],
)
def test_the_trigger_phrase_of_others_names_a_word_that_has_no_other_name(phrase: str, name: str) -> None:
    assert decode_word(save({"emb_params": vectors(1)}, {"modelspec.trigger_phrase": phrase}))[0] == name
    both = {"modelspec.trigger_phrase": phrase, "placeholder": "<ours>"}
    assert decode_word(save({"emb_params": vectors(1)}, both))[0] == "<ours>"


@pytest.mark.parametrize(
    "metadata",
    ["[]", "7", '"text"', '{"modelspec.trigger_phrase": 7}', '{"modelspec.title": {"a": []}}', '{"placeholder": null}'],
)
def test_broken_metadata_costs_no_word(metadata: str) -> None:
    """Catches a word that is refused for what nobody needs: safetensors itself reads none of these files."""
    data = with_metadata(metadata)
    name, found = decode_word(data)
    assert (name, found["text_encoder"].tobytes()) == ("", vectors(1).tobytes())
    assert stated_model(data) == ""


def test_a_word_for_another_model_is_told_which() -> None:
    assert (
        stated_model(encode_word("<owl>", WORD, spec=SPEC)) == "; its metadata says that it is for stable-diffusion-v1"
    )
    assert stated_model(b"no word") == ""
    assert stated_model(json.dumps([]).encode()) == ""


def test_the_versions_of_stable_diffusion_are_told_apart_by_their_width() -> None:
    family = FAMILIES["StableDiffusionPipeline"]
    named = [family.architecture_of({"text_encoder": np.zeros((1, width))}) for width in (768, 1024, 32)]
    assert named == ["stable-diffusion-v1", "stable-diffusion-v2", "stable-diffusion"]


def test_a_negative_word_says_so_and_is_read_as_one() -> None:
    """Catches a word to be avoided that another program, or we, would put into a prompt."""
    for kind, told in (("negative", True), ("object", False), ("style", False)):
        data = encode_word("<w>", WORD, spec=WordSpec("w", "sana", kind))
        assert is_negative(data) == told
    assert not is_negative(encode_word("<w>", WORD))
    assert not is_negative(b"no file")


def test_without_a_day_no_date_is_made_up(tmp_path: Path) -> None:
    said = metadata_in(encode_word("<w>", WORD, spec=WordSpec("w", "sana", "object")), tmp_path)
    assert not any("date" in key for key in said)


def test_what_a_file_says_of_itself_is_bounded() -> None:
    """Catches a word of a kilobyte whose metadata of megabytes goes into tables and report, and a name of millions of letters."""
    many = {f"modelspec.{number}": "x" for number in range(5_000)} | {"modelspec.title": "x" * 3_000}
    assert len(stated_in(save({"emb_params": vectors(1)}, many))) == MOST_STATED
    for name in ("x" * 141, "x" * 1_500_000):
        with pytest.raises(WordFileError, match="a name has at most 140"):
            decode_word(save({"emb_params": vectors(1)}, {"placeholder": name}))
        with pytest.raises(WordFileError, match="a name has at most 140"):
            decode_word(save({name: vectors(1)}))
    assert decode_word(save({"emb_params": vectors(1)}, {"placeholder": "x" * 140}))[0] == "x" * 140
    with pytest.raises(WordFileError, match="its header has"):
        decode_word(save({"emb_params": vectors(1)}, {"thumbnail": "x" * 2_000_000}))
