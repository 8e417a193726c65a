"""tokenizer_files.py: a tokenizer.json of kilobytes makes no gigabytes of a text, and takes no years for it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.peak import peak_of
from pipeline.models.find import MINI_FOLDER, ModelError, find_model
from pipeline.models.tokenizer_files import TokenizerError, refuse_costly_steps, repeats_a_choice

DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
NOTHING = {"type": "NFC"}


def nested(step: dict[str, Any], times: int) -> dict[str, Any]:
    for _ in range(times):
        step = {"type": "Sequence", "normalizers": [step, NOTHING]}
    return step


BOMBS: dict[str, dict[str, Any]] = {
    "doubled": {"normalizer": {"type": "Sequence", "normalizers": [DOUBLED] * 30}},
    "doubled inside": {"normalizer": nested(DOUBLED, 3)},
    "replaced by a pattern": {"normalizer": {"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": "x" * 1_000_000}},
    "bytes of bytes": {"normalizer": {"type": "Sequence", "normalizers": [BYTES] * 30}},
    "bytes of bytes of words": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 30}},
    "many steps": {"normalizer": {"type": "Sequence", "normalizers": [NOTHING] * 100_000}},
    "deep steps": {"normalizer": nested(NOTHING, 100)},
    "maps of maps": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled"}] * 2}},
    "a large map": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "A" * 600_000}},
    "much before": {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000}},
    "much around": {"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 1_000}},
    "a long suffix": {"model": {"type": "BPE", "end_of_word_suffix": "x" * 1_000}},
    "a slow pattern": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "([a-z ]+)+\\x01"}, "behavior": "Isolated"}},
    "a slow replacement": {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a|b)*c"}, "content": ""}},
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_a_step_that_makes_a_text_grow_or_takes_for_ever_is_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError):
        refuse_costly_steps(BOMBS[what])
    folder = Path(shutil.copytree(MINI_FOLDER, tmp_path / "model"))
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | BOMBS[what]), encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json: its|tokenizer\.json: it "):
        find_model(str(folder))


PANICS: dict[str, dict[str, Any]] = {
    "a map that is none": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a map that leads out of itself": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////9hYmM="}},
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a sign that is not there": {
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "X", "type_id": 0}}], "pair": [],
                           "special_tokens": {}},
    },
}  # fmt: skip


@pytest.mark.parametrize("what", PANICS)
def test_a_tokenizer_on_which_the_library_panics_is_refused(what: str, tmp_path: Path) -> None:
    """Catches a model's folder that ends a job with a traceback and the exit code of a finished run."""
    folder = Path(shutil.copytree(MINI_FOLDER, tmp_path / "model"))
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | PANICS[what]), encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json: the tokenizers library breaks on it"):
        find_model(str(folder))


def test_what_is_refused_does_take_gigabytes_or_seconds(tmp_path: Path) -> None:
    """Holds the attacks to be attacks: fewer doublings than above, and a text of 40 letters."""
    clip = Path(shutil.copytree(MINI_FOLDER / "tokenizer", tmp_path / "tokenizer"))
    told = json.loads((clip / "tokenizer.json").read_text(encoding="utf-8"))
    told["normalizer"] = {"type": "Sequence", "normalizers": [DOUBLED] * 18}
    (clip / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    grown, _ = peak_of(
        "from tokenizers import Tokenizer", "Tokenizer.from_file(sys.argv[1]).encode('a')", clip / "tokenizer.json"
    )
    assert grown > 20


# Of published tokenizers: CLIP, GPT-2, Llama 3, Qwen, GPT-4o, DeepSeek, BLOOM, T5, Falcon.
PUBLISHED = (
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lo}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+",
    r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",
    r"\s+",
    r" {2,}",
    r"[0-9][0-9][0-9]",
    r"\s+$",
)
SLOW = (
    r"(a+)+",
    r"(a*)*b",
    r"(a|a)*b",
    r"(?:x+x+)+y",
    r"((a+)b?)+",
    r"(a?){50}a",
    r"([a-z]+[ ]?)*$",
    r"(?=(([a-z ]+)+)x)",
    r"(?i:(a+))*",
    r"(a+){2,}",
    r"(.*a){20}",
)


def test_published_patterns_are_taken_and_exponential_ones_are_not() -> None:
    assert [pattern for pattern in PUBLISHED if repeats_a_choice(pattern)] == []
    assert [pattern for pattern in SLOW if not repeats_a_choice(pattern)] == []


def test_the_shipped_tokenizers_are_taken() -> None:
    for path in MINI_FOLDER.parent.rglob("tokenizer.json"):
        refuse_costly_steps(json.loads(path.read_text(encoding="utf-8")))
    find_model("mini")
