"""Word files: back from our own bytes, into diffusers to the last bit, and nothing else let in."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from pipeline.words import WordFileError, decode_word, encode_word
from tests.tiny_model import WIDTH, load_pipeline


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(scale=0.02, size=(count, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("placeholder", ["<my-cat>", "<Größe 9>", "sks"])
def test_a_word_comes_back_from_its_file(placeholder: str, count: int) -> None:
    name, found = decode_word(encode_word(placeholder, {"text_encoder": vectors(count)}))
    assert name == placeholder
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors(count))


def test_a_slice_of_a_larger_table_is_written_as_it_reads() -> None:
    """Catches the numbers of another row order: safetensors writes memory, not what an array looks like."""
    slanted = np.asfortranarray(vectors(3))[::-1]
    np.testing.assert_array_equal(decode_word(encode_word("<w>", {"text_encoder": slanted}))[1], vectors(3)[::-1])


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_loads_a_word_file_as_it_is(count: int, epsilon_model: Path, tmp_path: Path) -> None:
    """Catches words that are of use only here."""
    file = tmp_path / "my-cat.safetensors"
    file.write_bytes(encode_word("<my-cat>", {"text_encoder": vectors(count)}))
    theirs = load_pipeline(epsilon_model)
    theirs.load_textual_inversion(file)
    names = ["<my-cat>", *(f"<my-cat>_{row}" for row in range(1, count))]
    table = theirs.text_encoder.get_input_embeddings().weight.detach().numpy()
    for name, row in zip(names, vectors(count), strict=True):
        assert table[theirs.tokenizer.convert_tokens_to_ids(name)].tobytes() == row.tobytes()


def test_diffusers_single_vector_files_of_one_dimension_are_read() -> None:
    name, found = decode_word(save({"<w>": vectors(1)[0]}))
    assert (name, found.shape) == ("<w>", (1, WIDTH))


def test_half_precision_files_of_other_trainers_are_read() -> None:
    half = torch.from_numpy(vectors(2)).bfloat16()
    _, found = decode_word(save_torch({"<w>": half}))
    np.testing.assert_array_equal(found, half.float().numpy())


GOOD = encode_word("<w>", {"text_encoder": vectors(1)})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a safetensors file"),
        (b"not a word at all", "not a safetensors file"),
        (pickle.dumps({"<w>": [0.0]}), "not a safetensors file"),
        (GOOD[:-4], "not a safetensors file"),
        (GOOD[:20], "not a safetensors file"),
        (save({"<a>": vectors(1), "<b>": vectors(1)}), "expected one word in the file, found 2: <a>, <b>"),
        (save({"<w>": np.zeros((1, 2, 3), np.float32)}), "has shape"),
        (save({"<w>": np.zeros((), np.float32)}), "has shape"),
    ],
    ids=["empty", "text", "pickle", "cut short", "cut in the header", "two words", "a cube", "a number"],
)
def test_what_is_no_word_file_is_refused_with_the_reason(data: bytes, said: str) -> None:
    """Catches code run from a pickle, and a traceback where a sentence would help."""
    with pytest.raises(WordFileError, match=said):
        decode_word(data)


def test_a_pickle_is_refused_without_running_it(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(WordFileError):
        decode_word(pickle.dumps(Bomb()))
    assert not list(tmp_path.iterdir())
