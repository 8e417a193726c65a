"""A variant of the weights beside them changes nothing; one that is alone is loaded."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest
from safetensors.torch import load_file, save_file

from pipeline.models.find import MINI_FOLDER, ModelError, find_model
from pipeline.models.load import load_backbone
from tests.hub_server import hub

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


def shard(weights: Path, variant: str | None, *, older: bool = False) -> None:
    """Two shards and their index take the place of the file, named as diffusers and transformers name them now or did."""
    tensors = load_file(weights)
    names = sorted(tensors)
    of: dict[str, str] = {}
    for number, some in enumerate((names[::2], names[1::2]), 1):
        part = f"{number:05d}-of-00002"
        shown = f"-{part}.{variant}" if older else f".{variant}-{part}" if variant else f"-{part}"
        file = f"{weights.stem}{shown}.safetensors"
        save_file({name: tensors[name] for name in some}, weights.with_name(file), metadata={"format": "pt"})
        of |= dict.fromkeys(some, file)
    ending = f"{variant}.json" if variant else "json"
    index = weights.with_name(f"{weights.stem}.safetensors.index.{ending}")
    index.write_text(json.dumps({"metadata": {}, "weight_map": of}), encoding="utf-8")
    weights.unlink()


@pytest.mark.parametrize(("variant", "older"), [(None, False), ("fp16", False), ("bf16", True)])
def test_shards_are_loaded_from_disk_store_and_hub(
    variant: str | None, older: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDMINT_CACHE", str(tmp_path / "cache"))
    for path in list(model.glob("*/*.safetensors")):
        if path.parent.name in ("unet", "vae", "text_encoder"):
            shard(path, variant, older=older)
    fsspec.filesystem("memory").put(str(model), f"/shards-{variant}", recursive=True)
    plain = load_backbone("mini").weights_digest()
    assert load_backbone(str(model)).weights_digest() == plain
    assert load_backbone(f"memory://shards-{variant}").weights_digest() == plain
    with hub(model, tmp_path / "hub", monkeypatch):
        assert load_backbone("owner/name").weights_digest() == plain


def test_of_a_hub_the_plain_weights_are_fetched_or_the_only_variant(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a repository that has only half precision and is told to have pickles, and one that is fetched twice over."""
    for path in list(model.glob("*/*.safetensors")):
        shutil.copy(path, path.with_name(f"{path.stem}.fp16.safetensors"))
        if path.parent.name == "unet":
            path.unlink()
    on_disk = find_model(str(model))
    with hub(model, tmp_path / "hub", monkeypatch) as fetched:
        found = find_model("owner/name")
        weights = [
            name for name in fetched if name.startswith(("unet", "vae", "text_encoder")) and "safetensors" in name
        ]
        assert sorted(weights) == [
            "text_encoder/model.safetensors",
            f"unet/{UNET}.fp16.safetensors",
            f"vae/{UNET}.safetensors",
        ]
        assert found.digest == on_disk.digest
        before = len(fetched)
        assert find_model("owner/name").digest == found.digest
        assert fetched[before:] == []
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert find_model("owner/name").digest == found.digest
    assert load_backbone("owner/name").weights_digest() == load_backbone("mini").weights_digest()


def test_of_shards_and_a_whole_file_the_digest_has_what_is_loaded(model: Path, tmp_path: Path) -> None:
    """diffusers takes the shards that an index names, transformers the whole file; neither looks at the other's names."""
    for part, name, kept in (("unet", UNET, "shards"), ("text_encoder", "model", "whole")):
        copy = Path(shutil.copytree(model, tmp_path / part))
        weights = copy / part / f"{name}.safetensors"
        whole = weights.read_bytes()
        shard(weights, None)
        shards = find_model(str(copy)).digest
        weights.write_bytes(whole)
        assert find_model(str(copy)).digest == {"shards": shards, "whole": find_model("mini").digest}[kept]
        assert load_backbone(str(copy)).weights_digest() == load_backbone("mini").weights_digest()
        (weights.with_name("model.safetensors" if part == "unet" else f"{UNET}.safetensors")).write_bytes(b"another's")
        assert find_model(str(copy)).digest == {"shards": shards, "whole": find_model("mini").digest}[kept]


def test_several_variants_without_plain_weights_are_refused(model: Path) -> None:
    weights = model / "unet" / f"{UNET}.safetensors"
    shutil.copy(weights, weights.with_name(f"{UNET}.fp16.safetensors"))
    weights.rename(weights.with_name(f"{UNET}.bf16.safetensors"))
    with pytest.raises(ModelError, match="has the variants bf16, fp16 alone: keep one of them"):
        find_model(str(model))
