"""A CLIP whose folder has been tampered with is refused by file and entry, and nothing of the folder is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.judges.clip import MINI_FOLDER, load_clip
from pipeline.models.configuration import ConfigurationError

EVIL = "from pathlib import Path\nPath({trace!r}).touch()\n\nclass Evil:\n    pass\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped CLIP in a folder of its own, with a file of code beside it that leaves `trace`."""
    made = Path(shutil.copytree(MINI_FOLDER, tmp_path / "clip"))
    (made / "evil.py").write_text(EVIL.format(trace=str(tmp_path / "trace")), encoding="utf-8")
    return made


def change(path: Path, entries: dict[str, Any], *inside: str) -> None:
    configuration = json.loads(path.read_text(encoding="utf-8"))
    target = configuration
    for name in inside:
        target = target[name]
    target.update(entries)
    path.write_text(json.dumps(configuration), encoding="utf-8")


AUTO = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
TEXT = ("model_cfg", "text_cfg")


@pytest.mark.parametrize(
    ("entries", "inside", "said"),
    [
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, TEXT, "trust_remote_code"),
        ({"tokenizer_kwargs": {"trust_remote_code": "yes"}}, TEXT, "trust_remote_code"),
        ({"tokenizer_kwargs": {"tokenizer_file": "/etc/passwd"}}, TEXT, "tokenizer_kwargs.tokenizer_file"),
        ({"tokenizer_kwargs": {"clean": "os.system"}}, TEXT, "tokenizer_kwargs.clean"),
        ({"tokenizer_kwargs": {"clean": ["lower"]}}, TEXT, "tokenizer_kwargs.clean"),
        ({"tokenizer_kwargs": ["trust_remote_code"]}, TEXT, "tokenizer_kwargs"),
        ({"hf_model_name": "../evil"}, TEXT, "hf_model_name"),
        ({"hf_model_name": "somebody/evil"}, TEXT, "hf_model_name"),
        ({"hf_model_name": ["roberta-base"]}, TEXT, "hf_model_name"),
        ({"timm_model_name": "hf-hub:somebody/evil"}, ("model_cfg", "vision_cfg"), "timm_model_name"),
        ({"timm_model_name": "local-dir:/tmp/evil"}, ("model_cfg", "vision_cfg"), "timm_model_name"),
        ({"text_cfg": None}, ("model_cfg",), "text_cfg"),
    ],
)
def test_an_entry_of_the_configuration_that_a_library_would_run_or_load_is_refused_by_name(
    folder: Path, entries: dict[str, Any], inside: tuple[str, ...], said: str
) -> None:
    """Catches keywords that open_clip hands on to transformers and timm as they stand."""
    change(folder / "tokenizer_config.json", {"auto_map": AUTO} if "trust" in said else {})
    change(folder / "open_clip_config.json", entries, *inside)
    with pytest.raises(ConfigurationError, match=said.replace(".", r"\.")) as refused:
        load_clip(str(folder))
    assert str(folder) in str(refused.value)
    assert not (folder.parent / "trace").exists()


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_code_of_the_folder_named_by_its_tokenizer_is_refused(folder: Path, file: str) -> None:
    """Catches a question at the terminal whether to run it, which somebody answers with yes."""
    (folder / file).touch()
    if not (folder / file).read_text():
        (folder / file).write_text("{}")
    change(folder / file, {"auto_map": AUTO, "tokenizer_class": "Evil"})
    with pytest.raises(ConfigurationError, match=f"{file}: 'auto_map'"):
        load_clip(str(folder))
    assert not (folder.parent / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"[1]", b"\xff\xfe", b" " * 5_000_000])
def test_a_configuration_that_is_none_is_refused_by_name(folder: Path, content: bytes) -> None:
    (folder / "open_clip_config.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"open_clip_config\.json"):
        load_clip(str(folder))


def test_a_pickle_is_not_opened_in_place_of_safetensors(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"open_clip_model\.safetensors does not exist"):
        load_clip(str(folder))


def test_weights_that_the_hub_has_as_a_pickle_alone_are_not_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the pickle that open_clip falls back to. There is no hub here: what it would have given is made up."""
    pickled = folder / "open_clip_pytorch_model.bin"
    pickled.write_bytes(b"not to be opened")
    monkeypatch.setattr("open_clip.download_pretrained", lambda published: str(pickled))
    with pytest.raises(ValueError, match="published as a pickle alone"):
        load_clip("ViT-B-32-quickgelu:openai")


def test_another_tokenizer_has_another_digest_and_the_same_fingerprint(folder: Path) -> None:
    """The fingerprint, by which scores that there are already are known, covers weights and preprocessing."""
    shipped = load_clip()
    assert load_clip(str(folder)).tokenizer_digest == shipped.tokenizer_digest
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = vocabulary["model"]["vocab"]
    (one, first), (other, second) = list(words.items())[-2:]
    words[one], words[other] = second, first
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tampered = load_clip(str(folder))
    assert tampered.tokenizer_digest != shipped.tokenizer_digest
    assert tampered.fingerprint == shipped.fingerprint
