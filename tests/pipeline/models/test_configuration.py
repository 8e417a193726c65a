"""Configurations of a model in diffusers' layout are read before a library reads them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.find import MINI_FOLDER, ModelError, find_model
from pipeline.models.load import load_backbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI_FOLDER, tmp_path / "model"))


def change(path: Path, entries: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "evil"}}, "quantization_config"),
        ("text_encoder/config.json", {"attn_implementation": "somebody/kernel"}, "attn_implementation"),
        ("text_encoder/config.json", {"text_config": {"deep": [{"trust_remote_code": True}]}}, "trust_remote_code"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}, "auto_map"),
        ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ("vae/config.json", {"_attn_implementation": "somebody/kernel"}, "_attn_implementation"),
        ("scheduler/scheduler_config.json", {"auto_map": "evil"}, "auto_map"),
        ("model_index.json", {"unet": ["evil", "Evil"]}, "a class of a module of its own"),
        ("model_index.json", {"_class_name": ["evil", "Evil"]}, "a class of a module of its own"),
        ("model_index.json", {"_class_name": {"a": 1}}, "this version knows"),
        ("model_index.json", {"custom_pipeline": "somebody/evil"}, "custom_pipeline"),
        ("model_index.json", {"_class_name": "evil.Evil"}, "this version knows"),
        ("text_encoder/config.json", {"transformers_weights": "other.safetensors"}, "transformers_weights"),
        (
            "text_encoder/config.json",
            {"_experts_implementation_internal": "somebody/kernel"},
            "_experts_implementation_internal",
        ),
        ("text_encoder/config.json", {"attn_implementation": {"": "somebody/kernel"}}, "attn_implementation"),
        (
            "tokenizer/tokenizer_config.json",
            {"fast_tokenizer_files": ["../../tokenizer.4.json"]},
            "fast_tokenizer_files",
        ),
        ("tokenizer/tokenizer_config.json", {"vocab": "/etc/passwd"}, "vocab"),
        ("tokenizer/tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}, "init_inputs"),
        (
            "text_encoder/config.json",
            {"vision_config": {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/x"}},
            "model_type",
        ),
        ("text_encoder/config.json", {"vision_config": {"model_args": {"checkpoint_path": "/evil.pt"}}}, "model_args"),
        ("text_encoder/config.json", {"vision_config": {"checkpoint_path": "/evil.pt"}}, "checkpoint_path"),
        (
            "text_encoder/preprocessor_config.json",
            {"image_processor_type": "TimmWrapperImageProcessor"},
            "image_processor_type",
        ),
        ("text_encoder/config.json", {"use_timm_backbone": True, "backbone": "hf-hub:evil/x"}, "use_timm_backbone"),
        (
            "text_encoder/processor_config.json",
            {"audio_tokenizer": {"audio_tokenizer_class": "AutoModel"}},
            "audio_tokenizer",
        ),
        (
            "text_encoder/audio_tokenizer_config.json",
            {"audio_tokenizer_name_or_path": "somebody/evil"},
            "audio_tokenizer_name_or_path",
        ),
        ("tokenizer/special_tokens_map.json", {"tokenizer_file": "/etc/passwd"}, "tokenizer_file"),
    ],
)
def test_an_entry_that_a_library_would_run_or_load_is_refused_by_name(
    folder: Path, file: str, entries: dict[str, Any], said: str
) -> None:
    """Catches a model folder that brings code along, or has some fetched."""
    if not (folder / file).exists():
        (folder / file).write_text("{}", encoding="utf-8")
    change(folder / file, entries)
    with pytest.raises(ModelError, match=said) as refused:
        find_model(str(folder))
    if "knows" not in said:
        assert str(folder / file) in str(refused.value)


@pytest.mark.parametrize("adapter", [{"base_model_name_or_path": "somebody/evil"}, {"base_model_name_or_path": ""}, {}])
def test_an_adapter_is_not_loaded_nor_another_model_that_it_names(folder: Path, adapter: dict[str, str]) -> None:
    """Catches the pickle of an adapter that a library opens because a file with its name lies there."""
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ModelError, match=r"adapter_config\.json: an adapter is not loaded"):
        find_model(str(folder))


@pytest.mark.parametrize(
    "name", ["tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer/tokenizer.json", "tokenizer/spiece.model"]
)
def test_a_file_of_a_tokenizer_that_says_it_has_gigabytes_is_not_read(folder: Path, name: str) -> None:
    """Catches a file without a byte on the disk that fills the memory."""
    (folder / name).touch()
    os.truncate(folder / name, 20_000_000_000)
    with pytest.raises(ModelError, match=f"{name} is larger than 64 MB"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "added_tokens.json"])
def test_a_list_of_words_that_is_none_is_not_parsed(folder: Path, name: str) -> None:
    (folder / "tokenizer" / name).write_bytes(b'{"a": [' + b"[]," * 4_000_001 + b"0]}")
    with pytest.raises(ModelError, match=f"{name} holds over 8,000,000 values"):
        find_model(str(folder))


@pytest.mark.parametrize("ending", ["index.json", "index.fp16.json", "fp16.index.json"])
@pytest.mark.parametrize(
    "shard", ["../../other.safetensors", "pytorch_model.bin", "/etc/passwd", "other.safetensors", 7]
)
def test_an_index_names_shards_of_its_own_folder_and_no_pickles(folder: Path, shard: object, ending: str) -> None:
    """Catches weights that no digest covers, and a pickle opened because an index names it."""
    index = {"metadata": {}, "weight_map": {"weight": shard}}
    (folder / "unet" / f"diffusion_pytorch_model.safetensors.{ending}").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"{ending} names"):
        find_model(str(folder))


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"a":' * 200 + b"1" + b"}" * 200, b"\xff", b"3"])
def test_a_configuration_that_is_none_is_told_by_its_file(folder: Path, content: bytes) -> None:
    (folder / "unet" / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"unet/config\.json"):
        find_model(str(folder))


def test_entries_that_say_nothing_are_let_through(folder: Path) -> None:
    """Catches published models that are refused for an empty or a plain entry."""
    change(folder / "text_encoder" / "config.json", {"auto_map": None, "attn_implementation": "sdpa"})
    change(folder / "model_index.json", {"safety_checker": [None, None], "feature_extractor": ["transformers", "X"]})
    assert find_model(str(folder)).digest == find_model("mini").digest
    load_backbone(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/additional_chat_templates/x.jinja",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_pipe_in_a_models_folder_is_refused_and_not_waited_for(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"{name} is not a regular file"):
        find_model(str(folder))
