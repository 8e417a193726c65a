"""The second judge of pictures: a real timm model, small and with random weights from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from eval.judges.dino import TimmScorer, load_timm

ARCHITECTURE = "test_vit"  # timm's own, for tests: a ViT of a hundred thousand weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dino") / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model(ARCHITECTURE).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def dino(weights: Path) -> TimmScorer:
    return load_timm(f"timm:{ARCHITECTURE}:{weights}")


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 64, 3), dtype=np.uint8))


def test_features_are_rows_of_length_one_and_those_of_timm_alone(dino: TimmScorer, weights: Path) -> None:
    found = dino.encode_images(pictures(3))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    model: Any = timm.create_model(ARCHITECTURE).eval()
    model.load_state_dict(load_file(weights))
    model.reset_classifier(0)
    prepare = create_transform(**resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        theirs = model(torch.stack([prepare(Image.fromarray(each)) for each in pictures(3)])).numpy()
    np.testing.assert_allclose(found, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5)
    assert dino.encode_images([]).shape == (0, found.shape[1])


def test_the_fingerprint_follows_the_weights_and_not_the_path(dino: TimmScorer, weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    assert load_timm(f"timm:{ARCHITECTURE}:{copy}").fingerprint == dino.fingerprint
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(timm.create_model(ARCHITECTURE).state_dict(), copy)
    assert load_timm(f"timm:{ARCHITECTURE}:{copy}").fingerprint != dino.fingerprint


def test_weights_that_are_not_the_architectures_are_refused_rather_than_completed_at_random(
    weights: Path, tmp_path: Path
) -> None:
    state = timm.create_model(ARCHITECTURE).state_dict()
    save_file(dict(list(state.items())[:-4]), tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"lacks \d+ weights"):
        load_timm(f"timm:{ARCHITECTURE}:{tmp_path / 'part.safetensors'}")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_timm(f"timm:{ARCHITECTURE}:{tmp_path / 'text.safetensors'}")


@pytest.mark.parametrize("name", ["timm:vit_small_patch16_224.dino", "timm:no_such_model:x.safetensors"])
def test_a_name_that_is_no_architecture_and_file_is_refused_with_the_form(name: str) -> None:
    with pytest.raises(ValueError, match="must be timm:ARCHITECTURE:FILE"):
        load_timm(name)


def test_a_weights_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors does not exist"):
        load_timm("timm:vit_small_patch16_224.dino:nowhere.safetensors")
