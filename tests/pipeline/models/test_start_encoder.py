"""The start encoder: a linear map worked out by hand, the shipped one, and files that do not belong to their model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.models.find import MINI_FOLDER, Model, ModelError, find_model
from pipeline.models.start_encoder import FILE, StartEncoder, load_start_encoder


def of(weight: np.ndarray) -> StartEncoder:
    width = len(weight)
    shares = {
        "weight": weight.astype(np.float32),
        "bias": np.zeros(width, np.float32),
        "mean": np.full(width, 5, np.float32),
        "std": np.full(width, 2, np.float32),
    }
    return StartEncoder("", {"text_encoder": shares})


@pytest.mark.parametrize("side", [16, 32, 50])
def test_a_map_is_applied_to_the_mean_of_the_pictures_as_16_by_16_pixels(side: int) -> None:
    """Catches pictures weighed unequally, channels or places mixed up, and sides that 16 does not divide cut off."""
    weight = np.zeros((2, 768))
    weight[0, 0], weight[1, -1] = 1, 1  # red of the first place, blue of the last
    pictures = np.zeros((2, side, side, 3), np.uint8)
    pictures[:, : side // 4, : side // 4, 0] = 255
    # The first is 1 and the second -1: normalised they stay, of mean 5 and spread 2 they are 7 and 3.
    found = of(weight).vectors(pictures)["text_encoder"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [7, 3], atol=1e-4)


def test_the_shipped_encoder_is_that_of_the_shipped_weights_and_makes_words_as_long_as_the_vocabularys() -> None:
    encoder = load_start_encoder(find_model("mini"))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    (vector,) = encoder.vectors(pictures).values()
    assert vector.shape == (128,)
    assert 0.4 < np.linalg.norm(vector) < 0.9


def test_a_model_without_an_encoder_is_refused_by_name(epsilon_model: Path) -> None:
    with pytest.raises(ModelError, match="has no start encoder"):
        load_start_encoder(find_model(str(epsilon_model)))


def test_an_encoder_of_other_weights_or_of_other_tensors_is_refused(tmp_path: Path) -> None:
    """Catches words that start at random and look as if they had been read off their pictures."""
    mini = find_model("mini")
    model = Model("copied", tmp_path, mini.family, mini.digest)
    (tmp_path / FILE).parent.mkdir()
    shutil.copy(MINI_FOLDER / FILE, tmp_path / FILE)
    assert load_start_encoder(model).digest == load_start_encoder(mini).digest
    with pytest.raises(ModelError, match=r"made for weights .* --start words"):
        load_start_encoder(Model("copied", tmp_path, mini.family, "0" * 64))
    tensors = load_file(tmp_path / FILE)
    del tensors["text_encoder.std"]
    save_file(tensors, tmp_path / FILE, {"model_digest": mini.digest})
    with pytest.raises(ModelError, match=r"text_encoder\.std"):
        load_start_encoder(model)
    (tmp_path / FILE).write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be read"):
        load_start_encoder(model)
