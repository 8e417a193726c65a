"""A single file of the hub, by owner/name/FILE.safetensors."""

import shutil
from pathlib import Path

import pytest

from pipeline.models.find import ModelError, find_model
from pipeline.models.load import load_backbone
from pipeline.models.single_file import configured
from tests.hub_server import COMMIT, hub
from tests.pipeline.models.test_single_file import make_both


@pytest.fixture
def first(epsilon_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a tiny Stable Diffusion 1."""
    monkeypatch.setenv("WORDMINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(configured, "CONFIGS", tmp_path / "made" / "configs")
    (tmp_path / "made").mkdir()
    return make_both("sd-1", epsilon_model, tmp_path / "made")[0]


def test_a_file_of_the_hub_is_fetched_alone_and_once(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a file of the hub that is told to be none, and a repository of gigabytes fetched for it."""
    repository = tmp_path / "repository"
    (repository / "older").mkdir(parents=True)
    for place in ("model.safetensors", "older/v1.safetensors", "another.safetensors"):
        shutil.copy(first, repository / place)
    wanted = find_model(str(first))
    with hub(repository, tmp_path / "hub", monkeypatch) as fetched:
        found = find_model("owner/name/model.safetensors")
        assert fetched == ["model.safetensors"]
        assert (found.digest, found.revision) == (wanted.digest, COMMIT)
        for name in (f"owner/name@{COMMIT}/older/v1.safetensors", "hf://owner/name/older/v1.safetensors"):
            pinned = find_model(name)
            assert (pinned.name, pinned.digest, pinned.revision) == (name, wanted.digest, COMMIT)
        assert fetched == ["model.safetensors", "older/v1.safetensors"]
        with pytest.raises(ModelError, match=r"the hub did not give it: .*nothing\.safetensors"):
            find_model("owner/name/nothing.safetensors")
        with pytest.raises(ModelError, match=r"has no model_index\.json; .* owner/name/FILE\.safetensors"):
            find_model("owner/name")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert (
            load_backbone("owner/name/model.safetensors").weights_digest() == load_backbone(str(first)).weights_digest()
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("owner/name/v1-5.ckpt", r"v1-5\.ckpt is no \.safetensors file; pickled weights"),
        ("owner/name/unet", r"it is not a hub id \(owner/name\[@commit\]\[/FILE\.safetensors\]\)"),
        ("hf://owner", "it is not a hub id"),
        ("../name/model.safetensors", "it is not a hub id"),
        (
            "https://huggingface.co/owner/name/resolve/main/a.safetensors",
            r"name one of .* as owner/name or owner/name/FILE",
        ),
    ],
)
def test_what_is_no_file_of_the_hub_is_told_before_the_hub_is_asked(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        find_model(name)
