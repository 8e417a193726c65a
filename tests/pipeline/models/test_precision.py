"""What narrow numbers do to a gradient, and which of them a GPU is given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.models.precision import dtypes_on
from pipeline.records import Concept
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.training.inversion import new_slot, train_step

CUDA = torch.device("cuda")
CONCEPT = Concept("c", (), "<c>", initializer="bird")
ONE_PICTURE = InversionSettings(batch_size=1, early_stop="off", flip=False)


def gradient(backbone: Backbone, settings: InversionSettings) -> np.ndarray:
    """Of a first step: Adam's first mean is a tenth of it."""
    side = settings.resolution or backbone.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    slot = new_slot(CONCEPT, pixels, backbone, settings)
    train_step(backbone, [slot])
    return np.concatenate([mean.double().numpy().ravel() * 10 for mean in slot.means.values()])


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("resolution", [64, pytest.param(512, marks=pytest.mark.long)])
def test_in_float16_a_gradient_is_float32s_however_large_the_picture(
    resolution: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 pixels are as many latents as SDXL has at 1,024: the mean's gradient is divided by as much."""
    settings = replace(ONE_PICTURE, resolution=resolution)
    wanted = gradient(load_backbone("mini"), settings)
    half = load_backbone("mini", settings=ModelSettings("float16", first_stage_dtype="float32"))
    found = gradient(half, settings)
    assert cosine(found, wanted) >= 0.99
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(wanted), rel=0.05)
    if resolution == 512:
        monkeypatch.setattr(half, "loss_scale", lambda values: 1.0)
        assert cosine(gradient(half, settings), wanted) < 0.9, "the test would not see a loss that is not scaled"


@pytest.mark.parametrize(("unet", "text"), [("float16", "auto"), ("float32", "float16"), ("bfloat16", "float32")])
def test_the_scale_is_taken_out_of_the_gradient_again(
    unet: str, text: str, any_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a scale that a loss gets and its regularisation does not, or that stays in the gradient."""
    settings = replace(ONE_PICTURE, regularisation=0.3, start="statistics")
    ours = load_backbone(str(any_model), settings=ModelSettings(unet, text, "float32"))
    assert (ours.loss_scale(1000) > 1) == ("float16" in (unet, text))
    found = gradient(ours, settings)
    monkeypatch.setattr(ours, "loss_scale", lambda values: 32.0)
    other = gradient(ours, settings)
    assert cosine(found, other) >= 0.999
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(other), rel=0.01)


def test_a_gpu_without_bfloat16_is_not_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the emulation that torch falls back to, which is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert dtypes_on(CUDA, ModelSettings()) == (torch.float16, torch.float16)
    assert dtypes_on(CUDA, ModelSettings("float32")) == (torch.float32, torch.float32)
    for settings in (ModelSettings("bfloat16"), ModelSettings("float32", text_encoder_dtype="bfloat16")):
        with pytest.raises(ValueError, match=r"Tesla T4 has no bfloat16, .* take --dtype float16 or float32"):
            dtypes_on(CUDA, settings)
    assert dtypes_on(torch.device("cpu"), ModelSettings("bfloat16")) == (torch.bfloat16, torch.bfloat16)


def test_a_gpu_with_bfloat16_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert dtypes_on(CUDA, ModelSettings()) == (torch.bfloat16, torch.bfloat16)


def test_float32_is_not_tf32(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    load_backbone(str(epsilon_model))
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
