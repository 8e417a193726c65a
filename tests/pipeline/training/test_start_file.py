"""Start files: maps worked out by hand, what they are refused for, and files that are none."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.start_file import StartFile, StartFileError, StartMap, decode_start_file, encode_start_file
from pipeline.training.start_vectors import start_vectors


def maps(count: int, **widths: int) -> dict[str, StartMap]:
    return {
        name: StartMap(np.full((count, width, 3), 2, np.float32), np.full((count, width), 1, np.float32))
        for name, width in widths.items()
    }


STATED = {
    "model": "mini",
    "model_digest": "a" * 64,
    "clip": "mini",
    "clip_digest": "b" * 64,
    "fitted_to": "12 learned words",
}
FILE = StartFile(
    digest="", **STATED, mean=np.array([1, 0, 0], np.float32),
    maps={("object", 1): maps(1, clip_l=4, clip_g=5), ("object", 2): maps(2, clip_l=4, clip_g=5)},
)  # fmt: skip


def test_a_file_is_read_as_it_was_written_and_always_the_same_bytes() -> None:
    data = encode_start_file(FILE)
    read = decode_start_file(data)
    assert encode_start_file(read) == data
    assert {name: getattr(read, name) for name in STATED} == STATED
    assert read.encoders == ("clip_g", "clip_l")
    assert read.kinds == {"object"}
    assert len(read.digest) == 64


def test_a_map_is_applied_to_the_mean_feature_less_the_mean_of_all() -> None:
    """Catches a mean that is not taken away, vectors of one text encoder in another's place, and a kind that has no map."""
    features = np.array(
        [[1, 1, 0], [1, 0, 3]], np.float32
    )  # mean (1, 0.5, 1.5), less (1, 0, 0): 2, times two, plus one
    found = FILE.vectors(features, "object", 2)
    assert found is not None
    assert {name: value.shape for name, value in found.items()} == {"clip_l": (2, 4), "clip_g": (2, 5)}
    np.testing.assert_allclose(found["clip_l"], 5)
    assert found["clip_l"].dtype == np.float32
    assert FILE.vectors(features, "style", 1) is None
    with pytest.raises(StartFileError, match="it reads 3 features of a picture, and 'mini' gives 2"):
        FILE.vectors(features[:, 1:], "object", 2)


def test_a_file_of_another_model_or_clip_or_of_fewer_encoders_is_refused_with_what_would_do() -> None:
    FILE.refuse_model("mini", "a" * 64, ["clip_l"])
    FILE.refuse_clip("mini", "b" * 64)
    with pytest.raises(
        StartFileError, match=r"'mini' with weights aaaaaaaaaaaa, and 'sd' has weights cccccccccccc; make another"
    ):
        FILE.refuse_model("sd", "c" * 64, ["clip_l"])
    with pytest.raises(StartFileError, match="no map for the text encoder t5, only for clip_g, clip_l"):
        FILE.refuse_model("mini", "a" * 64, ["clip_l", "t5"])
    with pytest.raises(StartFileError, match="give that CLIP, or make another"):
        FILE.refuse_clip("ViT", "d" * 64)


def test_a_word_of_more_vectors_than_any_it_was_fitted_to_is_refused_and_a_kind_without_a_map_is_not() -> None:
    FILE.refuse_concepts([Concept("cat", (), "<cat>", vectors=2), Concept("ink", (), "<ink>", kind="style", vectors=3)])
    with pytest.raises(
        StartFileError, match=r"cat is a word of 3 vectors, and it has maps for objects of 1, 2; change --vectors"
    ):
        FILE.refuse_concepts([Concept("cat", (), "<cat>", vectors=3)])


def damaged(name: str, value: np.ndarray | None) -> bytes:
    """The file with that tensor changed, or without it."""
    tensors = {**load(encode_start_file(FILE)), name: value}
    return save({name: each for name, each in tensors.items() if each is not None}, STATED)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"torn", "no safetensors file"),
        (encode_start_file(FILE)[:-5], "no safetensors file"),
        (save({"mean": np.zeros(3, np.float32)}, {}), "does not state its model"),
        (damaged("object.1.clip_l.bias", None), "map for clip_l do not fit together"),
        (damaged("object.1.clip_l.weight", np.zeros((1, 4, 2), np.float32)), "map for clip_l do not fit together"),
        (damaged("object.0.clip_l.bias", np.zeros((0, 4), np.float32)), "is not one of a start file"),
        (damaged("object.2.clip_g.bias", np.full((2, 5), np.nan, np.float32)), "or not finite"),
        (damaged("mean", np.zeros(2, np.float32)), "do not fit together"),
        (save({"mean": np.zeros(3, np.float32)}, STATED), "not all of the same text encoders"),
    ],
)
def test_what_is_no_start_file_is_told(data: bytes, said: str) -> None:
    """Catches a word of zeros, and one of numbers that were another tensor's."""
    with pytest.raises(StartFileError, match=said):
        decode_start_file(data)


def test_a_word_starts_at_what_the_file_makes_of_its_pictures_and_without_a_map_at_its_initializer() -> None:
    """Catches a start that is read and dropped, and a style that starts as an object."""
    model, concept = load_backbone("mini"), Concept("my-crab", (), "<my-crab>", initializer="crab", vectors=2)
    settings = InversionSettings(start="fitted", start_encoder="a" * 64)
    vectors = {"text_encoder": np.arange(256, dtype=np.float32).reshape(2, 128)}
    np.testing.assert_array_equal(
        start_vectors(model, concept, settings, pictured=vectors)["text_encoder"], vectors["text_encoder"]
    )
    plain = start_vectors(model, concept, replace(settings, start="words", start_encoder=""))
    np.testing.assert_array_equal(start_vectors(model, concept, settings)["text_encoder"], plain["text_encoder"])
    assert settings.fingerprinted()["start_encoder"] == "a" * 64
