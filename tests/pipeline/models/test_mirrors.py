"""Models in an object store: one copy a node, whole or not at all, and the weights that the run was begun with."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.models.find import ModelError, find_model
from pipeline.models.load import cached_backbone, load_backbone
from pipeline.models.mirrors import cache_folder
from pipeline.settings import ModelSettings
from pipeline.store.storage import Storage
from tests.conftest import Bucket, Faults


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDMINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def upload(model: Path, bucket: Bucket) -> Storage:
    store = Storage(f"{bucket.url}/model", bucket.options)
    for path in sorted(model.rglob("*")):
        if path.is_file():
            store.write_bytes(path.relative_to(model).as_posix(), path.read_bytes())
    return store


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_a_model_in_a_store_is_the_model_on_disk(any_model: Path, bucket: Bucket, cache: Path) -> None:
    """Catches a family whose folders are not copied, and a model that is copied for every worker of a node."""
    store = upload(any_model, bucket)
    store.write_bytes("unet/diffusion_pytorch_model.fp16.safetensors", b"the same in another precision")
    store.write_bytes("everything.ckpt", b"the same once more")
    found = find_model(store.url, bucket.options)
    on_disk = find_model(str(any_model))
    assert (found.digest, found.family, found.name) == (on_disk.digest, on_disk.family, store.url)
    assert cache_folder() == cache
    assert copies(cache) == [found.folder]
    assert not list(found.folder.rglob("*.fp16.*")) + list(found.folder.rglob("*.ckpt"))
    ours, theirs = load_backbone(store.url, options=bucket.options), load_backbone(str(any_model))
    assert ours.weights_digest() == theirs.weights_digest()
    for name, vectors in ours.initial_vectors("cat", 1).items():
        np.testing.assert_array_equal(vectors, theirs.initial_vectors("cat", 1)[name])
    before = {path: path.stat().st_mtime_ns for path in found.folder.rglob("*")}
    find_model(store.url, bucket.options)
    assert {path: path.stat().st_mtime_ns for path in found.folder.rglob("*")} == before


def test_workers_that_ask_at_once_get_one_copy(epsilon_model: Path, bucket: Bucket, cache: Path) -> None:
    """Catches a model that eight workers of a node write over one another."""
    store = upload(epsilon_model, bucket)
    with ThreadPoolExecutor(4) as threads:
        found = {each.folder for each in threads.map(lambda _: find_model(store.url, bucket.options), range(4))}
    assert copies(cache) == list(found)


def test_a_model_that_was_changed_in_its_store_is_another(
    epsilon_model: Path, velocity_model: Path, bucket: Bucket, cache: Path
) -> None:
    """Catches words that are learned on yesterday's weights under today's name."""
    store = upload(epsilon_model, bucket)
    first = find_model(store.url, bucket.options)
    weights = "unet/diffusion_pytorch_model.safetensors"
    changed = bytearray((velocity_model / weights).read_bytes())
    changed[-1] ^= 1
    store.write_bytes(weights, bytes(changed))
    second = find_model(store.url, bucket.options)
    assert first.digest != second.digest
    assert len(copies(cache)) == 2
    with pytest.raises(ModelError, match="the nodes do not have the same model"):
        load_backbone(store.url, options=bucket.options, digest=first.digest)
    load_backbone(store.url, options=bucket.options, digest=second.digest)


def test_a_copy_that_breaks_off_leaves_nothing_that_passes_for_one(
    epsilon_model: Path, bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a model with half of its weights that every later run would load."""
    store = upload(epsilon_model, bucket)
    original = Storage.download

    def break_off(self: Storage, path: str, target: Path) -> None:
        if path.startswith("vae/"):
            raise OSError("the machine is taken away")
        original(self, path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "download", break_off)
        with pytest.raises(OSError, match="taken away"):
            find_model(store.url, bucket.options)
    assert copies(cache) == []
    assert find_model(store.url, bucket.options).digest == find_model(str(epsilon_model)).digest


def test_a_store_that_misbehaves_costs_time_and_nothing_else(
    epsilon_model: Path, bucket: Bucket, faults: Faults, cache: Path
) -> None:
    upload(epsilon_model, bucket)
    faults.planned = ["503", "", "reset", "", "503"]
    found = find_model(f"{bucket.url}/model", {"endpoint_url": faults.endpoint})
    assert faults.made >= 3
    assert found.digest == find_model(str(epsilon_model)).digest


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("{bucket}/nothing", "holds nothing of a model in diffusers' layout"),
        ("https://example.org/model", "a web server does not list its files"),
        ("nfs4://x/y", "nothing is known of nfs4"),
    ],
)
def test_a_url_that_is_no_model_is_refused_with_its_reason(url: str, said: str, bucket: Bucket) -> None:
    with pytest.raises(ModelError, match=said):
        find_model(url.format(bucket=bucket.url), bucket.options)


def test_a_local_url_is_a_model_too(epsilon_model: Path, tmp_path: Path) -> None:
    shutil.copytree(epsilon_model, tmp_path / "model")
    assert find_model(f"file://{tmp_path}/model").digest == find_model(str(epsilon_model)).digest


def test_tasks_that_draw_reach_the_store_of_the_model_as_well(epsilon_model: Path, bucket: Bucket) -> None:
    """Catches a model that the workers find with --storage-option, and the nightly evaluation on a fresh node does not."""
    store = upload(epsilon_model, bucket)
    wanted = load_backbone(str(epsilon_model)).weights_digest()
    loaded = cached_backbone(store.url, "cpu", ModelSettings(), bucket.options)
    assert loaded.weights_digest() == wanted
    assert cached_backbone(store.url, "cpu", ModelSettings(), dict(bucket.options)) is loaded
