"""A variant of the weights beside them changes nothing; one that is alone is loaded."""

import shutil
from pathlib import Path

import fsspec
import pytest

from pipeline.models.find import MINI_FOLDER, ModelError, find_model
from pipeline.models.load import load_backbone

UNET = "diffusion_pytorch_model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI_FOLDER, tmp_path / "model"))


@pytest.mark.parametrize(
    "twin", [f"{UNET}.fp16", f"{UNET}.bf16", f"{UNET}.non_ema", f"{UNET}.fp16-00001-of-00002", "another"]
)
def test_what_is_not_loaded_changes_no_digest(twin: str, model: Path) -> None:
    shutil.copy(model / "unet" / f"{UNET}.safetensors", model / "unet" / f"{twin}.safetensors")
    assert find_model(str(model)).digest == find_model("mini").digest


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_a_variant_that_is_alone_is_loaded_from_disk_and_store(
    variant: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDMINT_CACHE", str(tmp_path / "cache"))
    for path in list(model.glob("*/*.safetensors")):
        path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))
    memory = fsspec.filesystem("memory")
    memory.put(str(model), f"/{variant}", recursive=True)
    plain = load_backbone("mini").weights_digest()
    assert load_backbone(str(model)).weights_digest() == plain
    assert load_backbone(f"memory://{variant}").weights_digest() == plain


def test_several_variants_without_plain_weights_are_refused(model: Path) -> None:
    weights = model / "unet" / f"{UNET}.safetensors"
    shutil.copy(weights, weights.with_name(f"{UNET}.fp16.safetensors"))
    weights.rename(weights.with_name(f"{UNET}.bf16.safetensors"))
    with pytest.raises(ModelError, match="has the variants bf16, fp16 alone: keep one of them"):
        find_model(str(model))
