"""Text encoders with quantised weights: read where torchao reads them, and told in one sentence where not."""

import importlib.util
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel, TorchAoConfig

from pipeline.models.base import Backbone
from pipeline.models.find import MINI_FOLDER, ModelError, find_model
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.settings import InversionSettings, WordPlace
from pipeline.training.inversion import new_slot, train_step
from tests.tiny_model import PIXELS
from tests.tiny_transformers import save_tiny

INT8 = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}}
SETTINGS = InversionSettings(steps=3, early_stop="off", batch_size=2, learning_rate=5e-3)
PICTURES = np.random.default_rng(1).integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)


def stating(folder: Path, part: str, **stated: Any) -> str:
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": stated}), encoding="utf-8")
    return str(folder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI_FOLDER, tmp_path / "model"))


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "quantised by bitsandbytes; text encoders are read in",
        ),
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq;.* take a variant in float16 or bfloat16"),
        ({"quant_method": "gguf"}, "quantised by gguf"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, r"quantised by torchao \(int4_weight_only\)"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "os.system"}}}, r"by torchao \(os\.system\)"),
        ({"quant_method": "torchao", "quant_type": {"default": [1]}}, "quantised by torchao"),
        ({**INT8, "include_input_output_embeddings": True}, "without the table of words"),
        ({"load_in_8bit": True}, "quantised by bitsandbytes; text encoders"),
        ({"quant_method": "quanto", "weights": "int8"}, "quantised by quanto;.* take a variant in float16 or bfloat16"),
        ({"quant_method": "fp8"}, "quantised by fp8;.* take a variant in float16 or bfloat16"),
        ({"bits": 8}, "quantised by an unnamed method"),
    ],
)
def test_weights_that_are_quantised_otherwise_are_told(stated: dict[str, Any], said: str, model: Path) -> None:
    with pytest.raises(ModelError, match=rf"text_encoder/config\.json: 'quantization_config' .*{said}"):
        find_model(stating(model, "text_encoder", **stated))


def test_a_library_that_is_not_installed_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"by torchao, which is not installed: pip install 'wordmint\[quantised\]'"):
        find_model(stating(model, "text_encoder", **INT8))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_other_parts_are_not_read_quantised(part: str, model: Path) -> None:
    said = r"by torchao \(Int8WeightOnlyConfig\); this part is read not quantised alone: take a variant in float16"
    with pytest.raises(ModelError, match=rf"{part}/config\.json: 'quantization_config' .*{said}"):
        find_model(stating(model, part, **INT8))


@pytest.mark.parametrize(
    ("scale", "kind"),
    [
        ("scaled_fp8", "fp8 with scales"),
        ("layers.0.q_proj.scale_weight", "fp8 with scales"),
        ("layers.0.q_proj.weight_scale_inv", "fp8 with scales"),
        ("layers.0.q_proj.SCB", "bitsandbytes"),
        ("layers.0.q_proj.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("layers.0.q_proj.weight._scale", "quanto"),
        ("layers.0.q_proj.qweight", "GPTQ or AWQ"),
    ],
)
@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_weights_that_are_quantised_and_do_not_say_so_are_told(part: str, scale: str, kind: str, model: Path) -> None:
    """Catches words learned before weights that were read without their scales: another model, and no error."""
    (file,) = (model / part).glob("*.safetensors")
    save_file(load_file(file) | {scale: torch.ones(1)}, file, {"format": "pt"})
    with pytest.raises(
        ModelError, match=rf"'{re.escape(scale)}': its weights are quantised \({kind}\).* in float16 or"
    ):
        find_model(str(model))


def test_numbers_of_eight_bits_without_scales_are_read_as_they_are(model: Path) -> None:
    """fp8 as ComfyUI's T5 files have it: its numbers are the weights."""
    (file,) = (model / "text_encoder").glob("*.safetensors")
    kept = {
        name: value.to(torch.float8_e4m3fn) if value.ndim == 2 else value for name, value in load_file(file).items()
    }
    save_file(kept, file, {"format": "pt"})
    eight = load_backbone(str(model)).weights_digest()
    save_file({name: value.float() for name, value in kept.items()}, file, {"format": "pt"})
    assert load_backbone(str(model)).weights_digest() == eight


def test_gguf_files_are_told_for_what_they_are(model: Path, tmp_path: Path) -> None:
    for file in (model / "text_encoder").glob("*.safetensors"):
        file.rename(file.with_name("t5-v1_1-xxl-Q4_K_M.gguf"))
    with pytest.raises(
        ModelError, match=r"has t5-v1_1-xxl-Q4_K_M\.gguf alone, .* \.safetensors files in float16 or bfloat16"
    ):
        find_model(str(model))
    (tmp_path / "flux1-dev-Q8_0.gguf").write_bytes(b"GGUF")
    for name in (
        str(tmp_path / "flux1-dev-Q8_0.gguf"),
        "memory://models/flux1-dev-Q8_0.gguf",
        "owner/name/flux1-dev-Q8_0.gguf",
    ):
        with pytest.raises(ModelError, match=r"flux1-dev-Q8_0\.gguf is a GGUF file, whose weights are quantised"):
            find_model(name)


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_word_reaches_through_eight_bits_what_it_reaches_through_the_same_numbers(
    place: WordPlace, tmp_path: Path
) -> None:
    """Catches a gradient that ends at the quantised weights, weights that move, and a digest that does not see them."""
    folder = save_tiny("pixart", tmp_path / "model")
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    shutil.rmtree(folder / "text_encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eight_bits = importlib.import_module("torchao.quantization").Int8WeightOnlyConfig()
        eight = T5EncoderModel.from_pretrained(
            plain / "text_encoder", quantization_config=TorchAoConfig(eight_bits), dtype=torch.float32
        )
    eight.save_pretrained(folder / "text_encoder")
    same = T5EncoderModel.from_pretrained(plain / "text_encoder")
    numbers = {
        name: value.dequantize() if hasattr(value, "dequantize") and hasattr(value, "__tensor_flatten__") else value
        for name, value in eight.state_dict().items()
    }
    same.load_state_dict(numbers)
    same.save_pretrained(plain / "text_encoder")
    ours, theirs = load_backbone(str(folder)), load_backbone(str(plain))
    before = ours.weights_digest()
    word, wanted = learn(ours, place), learn(theirs, place)
    assert ours.weights_digest() == before != theirs.weights_digest()
    for name, vectors in wanted.vectors.items():
        moved, ours_moved = vectors - wanted.initial[name], word.vectors[name] - word.initial[name]
        assert np.abs(moved).max() > 1e-3
        np.testing.assert_allclose(ours_moved, moved, atol=1e-4)


def learn(backbone: Backbone, place: WordPlace) -> Word:
    settings = replace(SETTINGS, word_place=place)
    slot = new_slot(Concept("c", (), "<c>", initializer="cat"), PICTURES, backbone, settings)
    while not (ended := train_step(backbone, [slot])):
        pass
    ((_, word),) = ended
    assert isinstance(word, Word), word
    return word
