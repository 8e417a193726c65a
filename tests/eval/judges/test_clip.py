"""The CLIP that scores: a real open_clip model in a folder, small and with random weights."""

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from eval.judges.clip import BATCH, OpenClipScorer, load_clip
from jobs.mini.recipe.tokenizer import train_tokenizer
from jobs.mini.recipe.train_clip import new_clip, save_clip

CAPTIONS = ["a photo of a cat on the grass", "a pencil sketch of a dog at night", "a red car on a blue background"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(CAPTIONS, 40, made / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_clip(new_clip(len(tokenizer)), tokenizer, made / "clip")
    return made / "clip"


@pytest.fixture(scope="module")
def clip(folder: Path) -> OpenClipScorer:
    return load_clip(str(folder))


def pictures(count: int, side: int = 64) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_features_are_float32_rows_of_length_one(clip: OpenClipScorer) -> None:
    for features in (clip.encode_images(pictures(3)), clip.encode_texts(CAPTIONS[:3])):
        assert features.shape == (3, 128)
        assert features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_loading_says_nothing_of_random_weights(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Catches open_clip's warning of the model whose size is counted, which has none."""
    load_clip(str(folder))
    assert not [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_they_are_those_of_open_clip_alone(clip: OpenClipScorer, folder: Path) -> None:
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS[:3])
    given = [Image.fromarray(picture) for picture in pictures(3, side=96)]
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(picture) for picture in given]), normalize=True)
        texts = model.encode_text(tokens, normalize=True)
    np.testing.assert_allclose(clip.encode_images(given), images.numpy(), atol=1e-6)
    np.testing.assert_allclose(clip.encode_texts(CAPTIONS[:3]), texts.numpy(), atol=1e-6)


def test_arrays_and_pil_images_of_any_mode_give_the_same_features(clip: OpenClipScorer) -> None:
    array = pictures(1)[0]
    picture = Image.fromarray(array)
    buffer = io.BytesIO()
    picture.convert("RGBA").save(buffer, "PNG")
    reread = Image.open(buffer)
    found = clip.encode_images([array, picture, reread])
    np.testing.assert_allclose(found, np.repeat(found[:1], 3, axis=0), atol=1e-6)


def test_batches_do_not_show(clip: OpenClipScorer) -> None:
    many = pictures(BATCH + 5)
    together = clip.encode_images(many)
    np.testing.assert_allclose(
        together[[0, BATCH, -1]], clip.encode_images([many[0], many[BATCH], many[-1]]), atol=1e-5
    )


def test_nothing_in_gives_nothing_out_of_the_right_width(clip: OpenClipScorer) -> None:
    assert clip.encode_images([]).shape == clip.encode_texts([]).shape == (0, 128)


def test_the_fingerprint_follows_the_weights_and_the_preprocessing_not_the_folder(
    clip: OpenClipScorer, folder: Path, tmp_path: Path
) -> None:
    for name in ("copy", "other"):
        (tmp_path / name).mkdir()
        for file in folder.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    assert load_clip(f"local-dir:{tmp_path / 'copy'}").fingerprint == clip.fingerprint
    config = tmp_path / "other" / "open_clip_config.json"
    config.write_text(config.read_text().replace("bicubic", "bilinear"))
    assert load_clip(str(tmp_path / "other")).fingerprint != clip.fingerprint


def test_a_text_longer_than_the_model_reads_is_refused_rather_than_cut(clip: OpenClipScorer) -> None:
    fitting = " ".join(["a"] * 30)  # and the two marks of start and end
    assert clip.encode_texts([fitting]).shape == (1, 128)
    with pytest.raises(ValueError, match="reads 32 tokens"):
        clip.encode_texts(["a photo", f"{fitting} a"])


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("ViT-B-32:openai", "ViT-B-32-quickgelu:openai"),
        ("ViT-B-32-quickgelu:laion2b_s34b_b79k", "ViT-B-32:laion2b_s34b_b79k"),
        ("ViT-B-32:openia", "ViT-B-32-quickgelu:openai"),
        ("ViT-B-32", "MODEL:WEIGHTS"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_one(name: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        load_clip(name)


def test_a_folder_without_weights_is_refused_before_a_random_model_scores_anything(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"open_clip_config\.json does not exist"):
        load_clip(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"open_clip_model\.safetensors does not exist"):
        load_clip(str(tmp_path))
