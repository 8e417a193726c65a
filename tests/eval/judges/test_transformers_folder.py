"""Judges of transformers' classes: tiny ones of random weights, built by the library itself, read from folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from eval.judges.judge import ClipScorer, load_scorer
from eval.judges.transformers_folder import TransformersClip, load_transformers, reads_texts
from eval.scores.score_run import Judgement
from jobs.mini.recipe.tokenizer import train_tokenizer
from pipeline.models.configuration import ConfigurationError
from pipeline.protocols import QUICK
from tests.tiny_model import CAPTIONS

SIDE = 32
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": 8,
}  # fmt: skip
KINDS = ("siglip", "siglip2", "clip", "dinov2", "dinov2_with_registers", "dinov3_vit")


def save_tiny_judge(folder: Path, kind: str) -> Path:
    tokenizer = train_tokenizer(CAPTIONS, 80, folder)
    text = {**VISION, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 32}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    for unused in ("image_size", "patch_size"):
        text.pop(unused)
    size: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any
        if kind == "siglip":
            model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))
            preparing: Any = transformers.SiglipImageProcessor(**size)
        elif kind == "siglip2":
            vision = {name: value for name, value in VISION.items() if name != "image_size"} | {"num_patches": 16}
            model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
            preparing = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
        elif kind == "clip":
            model = transformers.CLIPModel(
                transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
            )
            preparing = transformers.CLIPImageProcessor(
                size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
            )
        else:
            name = {"dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters", "dinov3_vit": "DINOv3ViT"}[kind]
            model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**VISION))
            preparing = transformers.BitImageProcessor(
                size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
            )
    model.save_pretrained(folder, safe_serialization=True)
    preparing.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_judge(tmp_path_factory.mktemp("judge") / str(request.param), str(request.param))


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(2))
    large = [Image.fromarray(each).resize((48, 48), Image.Resampling.NEAREST) for each in (one, other)]
    touched = np.asarray(large[0]).copy()
    touched[:4, :4] = 255
    return [large[0], Image.fromarray(touched), large[1]]


def test_a_picture_is_nearer_to_itself_touched_up_than_to_another(folder: Path) -> None:
    judge = load_scorer(f"transformers:{folder}")
    found = judge.encode_images(pictures())
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2]
    np.testing.assert_allclose(judge.encode_images(pictures()[2:]), found[2:], atol=1e-5)
    assert judge.encode_images([]).shape == (0, found.shape[1])
    assert judge.encode_images([np.asarray(pictures()[0])])[0] @ found[0] == pytest.approx(1, abs=1e-5)


def test_features_are_those_of_transformers_alone_and_texts_are_read_where_the_model_does(folder: Path) -> None:
    judge, kind = (
        load_transformers(f"transformers:{folder}"),
        json.loads((folder / "config.json").read_text())["model_type"],
    )
    model = transformers.AutoModel.from_pretrained(folder).eval()
    prepared = transformers.AutoImageProcessor.from_pretrained(folder)(images=pictures(), return_tensors="pt")
    with torch.no_grad():
        out: Any = model.get_image_features(**prepared) if isinstance(judge, TransformersClip) else model(**prepared)
    theirs = getattr(out, "pooler_output", out).numpy()
    np.testing.assert_allclose(
        judge.encode_images(pictures()), theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5
    )
    assert isinstance(judge, ClipScorer) == reads_texts(judge.name) == (kind in ("clip", "siglip", "siglip2"))
    assert Judgement(QUICK, "m", "d", judge.name).reads_texts == reads_texts(judge.name)
    if not isinstance(judge, TransformersClip):
        return
    texts = judge.encode_texts(["a cat", "a cat", "a dog at night"])
    assert texts.shape == (3, theirs.shape[1])
    assert texts[0] @ texts[1] == pytest.approx(1, abs=1e-5)
    assert texts[0] @ texts[2] < 0.9999
    np.testing.assert_allclose(judge.encode_texts(["a cat"])[0], texts[0], atol=1e-5)
    with pytest.raises(ValueError, match="too long for transformers"):
        judge.encode_texts(["a cat", "a cat " * 30])


def test_the_fingerprint_follows_the_weights_and_the_preprocessing_and_not_the_path(
    folder: Path, tmp_path: Path
) -> None:
    before = load_transformers(f"transformers:{folder}").fingerprint
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load_transformers(f"transformers:{tmp_path}").fingerprint == before
    told = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**told, "image_mean": [0.1, 0.1, 0.1]}))
    assert load_transformers(f"transformers:{tmp_path}").fingerprint != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "'auto_map'"),
        ({"model_type": "bert"}, "model_type is 'bert'; supported are clip, siglip"),
        ({"_attn_implementation": "somebody/kernel"}, "_attn_implementation"),
    ],
)
def test_a_folder_that_would_have_anything_else_run_is_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    save_tiny_judge(tmp_path, "dinov2")
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, **change}))
    with pytest.raises(ConfigurationError, match=said):
        load_transformers(f"transformers:{tmp_path}")


def test_weights_that_are_a_pickle_alone_or_are_not_the_models_are_refused(tmp_path: Path) -> None:
    save_tiny_judge(tmp_path, "dinov2")
    weights = tmp_path / "model.safetensors"
    kept = load_file(weights)
    save_file({name: kept[name] for name in sorted(kept)[:-2]}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks the weights"):
        load_transformers(f"transformers:{tmp_path}")
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors does not exist"):
        load_transformers(f"transformers:{tmp_path}")
    weights.write_text("no weights")
    with pytest.raises(ValueError, match="does not load"):
        load_transformers(f"transformers:{tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load_transformers(f"transformers:{tmp_path / 'nowhere'}")
