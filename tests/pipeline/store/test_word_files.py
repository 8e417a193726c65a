"""Word files: back from our own bytes, into diffusers to the last bit, and nothing else let in."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from safetensors.torch import save as save_torch

from jobs.bench.peak import peak_of
from pipeline.store.word_files import Layout, WordFileError, decode_word, encode_word, suited
from tests.tiny_model import WIDTH, load_pipeline


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(scale=0.02, size=(count, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("placeholder", ["<my-cat>", "<Größe 9>", "sks"])
def test_a_word_comes_back_from_its_file(placeholder: str, count: int) -> None:
    name, found = decode_word(encode_word(placeholder, {"text_encoder": vectors(count)}))
    assert name == placeholder
    assert found["text_encoder"].dtype == np.float32
    np.testing.assert_array_equal(found["text_encoder"], vectors(count))


def test_a_slice_of_a_larger_table_is_written_as_it_reads() -> None:
    """Catches the numbers of another row order: safetensors writes memory, not what an array looks like."""
    slanted = np.asfortranarray(vectors(3))[::-1]
    np.testing.assert_array_equal(
        decode_word(encode_word("<w>", {"text_encoder": slanted}))[1]["text_encoder"], vectors(3)[::-1]
    )


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
    assert (name, found["text_encoder"].shape) == ("<w>", (1, WIDTH))


def test_half_precision_files_of_other_trainers_are_read() -> None:
    half = torch.from_numpy(vectors(2)).bfloat16()
    _, found = decode_word(save_torch({"<w>": half}))
    np.testing.assert_array_equal(found["text_encoder"], half.float().numpy())


def legacy(content: object) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink, _use_new_zipfile_serialization=False)
    return sink.getvalue()


def saved_by_torch(content: object) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink)
    return sink.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


def with_metadata(metadata: str) -> bytes:
    """A word file whose header has these characters for its metadata."""
    header = (
        f'{{"__metadata__": {metadata}, "emb_params": {{"dtype": "F32", "shape": [1, 32], "data_offsets": [0, 128]}}}}'
    )
    return len(header).to_bytes(8, "little") + header.encode() + vectors(1).tobytes()


@pytest.mark.parametrize(
    ("metadata", "name"), [("null", ""), ("{}", ""), ('{"placeholder": "<w>"}', "<w>"), ('{"a": "b"}', "")]
)
def test_a_word_is_read_whatever_its_metadata(metadata: str, name: str) -> None:
    assert decode_word(with_metadata(metadata))[0] == name


PLAIN = torch.from_numpy(vectors(2))
TWO = {"text_encoder": vectors(2), "text_encoder_2": np.ones((2, 3), np.float32)}
XL = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
# As other programs write them; with the name they give the word.
OTHERS: dict[str, tuple[bytes, str]] = {
    "diffusers, safetensors": (save_torch({"<w>": PLAIN}), "<w>"),
    "diffusers, bin": (saved_by_torch({"<w>": PLAIN}), "<w>"),
    "A1111, pt": (
        saved_by_torch(
            {
                "string_to_token": {"*": 265},
                "string_to_param": {"*": PLAIN},
                "name": "w",
                "step": 9,
                "sd_checkpoint": None,
            }
        ),
        "w",
    ),
    "A1111, safetensors": (save_torch({"emb_params": PLAIN}), ""),
    "the authors', pt": (
        saved_by_torch(
            {
                "string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(PLAIN)}),
            }
        ),
        "",
    ),
    "torch before 1.6": (legacy({"string_to_param": {"*": PLAIN}, "name": "w"}), "w"),
    "a bare tensor": (saved_by_torch(PLAIN), ""),
}


@pytest.mark.parametrize("program", OTHERS)
def test_words_of_other_programs_are_read_by_what_is_in_them(program: str) -> None:
    data, wanted = OTHERS[program]
    name, found = decode_word(data)
    assert name == wanted
    assert list(found) == ["text_encoder"]
    np.testing.assert_array_equal(found["text_encoder"], vectors(2))


@pytest.mark.parametrize("write", [save_torch, saved_by_torch], ids=["safetensors", "torch"])
def test_words_of_two_text_encoders_are_read(write: Callable[[object], bytes]) -> None:
    name, found = decode_word(write({"clip_g": torch.ones(2, 3), "clip_l": PLAIN}))
    assert name == ""
    for encoder, value in TWO.items():
        np.testing.assert_array_equal(found[XL[encoder]], value)


@pytest.mark.parametrize("layout", ["diffusers", "a1111"])
def test_a_word_of_two_text_encoders_comes_back_with_its_name(layout: Literal["diffusers", "a1111"]) -> None:
    data = encode_word("<w>", TWO, XL, layout)
    assert set(load(data)) == {"clip_l", "clip_g"}
    name, found = decode_word(data)
    assert name == "<w>"
    for encoder, value in TWO.items():
        np.testing.assert_array_equal(found[XL[encoder]], value)


def test_a_word_for_a1111_is_called_as_it_looks_for_it() -> None:
    data = encode_word("<w>", {"text_encoder": vectors(2)}, layout="a1111")
    assert list(load(data)) == ["emb_params"]
    assert decode_word(data)[0] == "<w>"


SD3 = XL | {"text_encoder_3": "t5"}
THREE = TWO | {"text_encoder_3": np.full((2, 5), 0.5, np.float32)}
FLUX = {"text_encoder": "clip_l", "text_encoder_2": "t5"}
Word = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("word", "keys", "layout", "in_file"),
    [
        (THREE, SD3, "diffusers", {"clip_l", "clip_g", "t5"}),
        (THREE, SD3, "comfyui", {"clip_l", "clip_g", "t5xxl"}),
        (TWO, FLUX, "diffusers", {"clip_l", "t5"}),
        (TWO, FLUX, "comfyui", {"clip_l", "t5xxl"}),
        ({"text_encoder": vectors(2)}, {"text_encoder": "t5"}, "diffusers", {"<w>"}),
        ({"text_encoder": vectors(2)}, {"text_encoder": "t5"}, "comfyui", {"t5xxl"}),
        ({"text_encoder": vectors(2)}, {"text_encoder": "qwen"}, "diffusers", {"<w>"}),
    ],
    ids=["SD 3", "SD 3, ComfyUI", "Flux", "Flux, ComfyUI", "Chroma", "Chroma, ComfyUI", "Z-Image"],
)
def test_a_word_comes_back_to_its_model_under_every_name(
    word: Word, keys: dict[str, str], layout: Layout, in_file: set[str]
) -> None:
    """Catches rows that land in another text encoder. OneTrainer and diffusers' trainers write "t5"; ComfyUI reads "t5xxl"."""
    data = encode_word("<w>", word, keys, layout)
    assert set(load(data)) == in_file
    name, found = decode_word(data)
    assert name == "<w>"
    back = suited(found, {encoder: rows.shape[1] for encoder, rows in word.items()}, keys)
    assert set(back) == set(word)
    for encoder, rows in word.items():
        np.testing.assert_array_equal(back[encoder], rows)


def test_a_word_gets_the_name_that_its_models_text_encoder_has() -> None:
    for keys in ({"bert": "bert"}, {"text_encoder": "qwen"}):
        ((encoder, rows),) = suited({"text_encoder": vectors(2)}, dict.fromkeys(keys, WIDTH), keys).items()
        assert encoder in keys
        np.testing.assert_array_equal(rows, vectors(2))


@pytest.mark.parametrize(
    ("word", "widths", "keys", "said"),
    [
        ({"text_encoder": vectors(1)}, {"text_encoder": 768}, {"text_encoder": "clip_l"}, "as wide as 32, .* are 768"),
        ({"text_encoder": vectors(1)}, None, XL, "vectors for one text encoder; .* are clip_l, clip_g"),
        ({"clip_l": vectors(1), "clip_g": vectors(1)}, None, {"text_encoder": "t5"}, "for clip_g, clip_l; .* are t5"),
        ({"clip_l": vectors(1), "gemma": vectors(1)}, None, SD3, "for clip_l, gemma; .* are clip_l, clip_g, t5"),
        ({"t5": vectors(1)}, {"text_encoder_3": 4096}, SD3, "as wide as 32, .* are 4096"),
        ({"t5": vectors(1)}, None, {"text_encoder": "gemma"}, "for t5; .* are gemma"),
    ],
)
def test_a_word_of_another_family_is_refused(
    word: Word, widths: dict[str, int] | None, keys: dict[str, str], said: str
) -> None:
    """Catches a traceback from the middle of a run, and half a word used as if it were a whole one."""
    with pytest.raises(WordFileError, match=said):
        suited(word, widths, keys)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
@pytest.mark.parametrize("encoders", [("text_encoder",), ("text_encoder", "text_encoder_3")])
def test_a_word_of_some_text_encoders_holds_their_keys_and_no_others(encoders: tuple[str, ...], layout: Layout) -> None:
    """Catches rows made up for a text encoder that the word was not learned in, and a file that does not say which it is for."""
    some = {name: THREE[name] for name in encoders}
    data = encode_word("<w>", some, SD3, layout)
    assert set(load(data)) == {"t5xxl" if (layout, SD3[name]) == ("comfyui", "t5") else SD3[name] for name in encoders}
    name, found = decode_word(data)
    back = suited(found, {encoder: rows.shape[1] for encoder, rows in THREE.items()}, SD3)
    assert name == "<w>"
    assert back.keys() == some.keys()
    for encoder, rows in some.items():
        np.testing.assert_array_equal(back[encoder], rows)


NAN = np.full((1, 3), np.nan, np.float32)
GOOD = encode_word("<w>", {"text_encoder": vectors(1)})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is an empty file"),
        (b"not a word at all", "it is a text, not a word file"),
        (b"<!doctype html><html>404</html>", r"a web page \(HTML\), not a word file: probably an error page"),
        (b'<?xml version="1.0"?><Error/>', "an XML file, not a word file: .* an object store's error message"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
            "a Git LFS pointer, not a word file: run `git lfs",
        ),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "a PNG picture, not a word file"),
        (zipped("a.txt", b"text"), "a ZIP archive, not a word file: unpack it"),
        (zipped("w/data.pkl", bytes(60_000_000)), "unpack to more than its own size"),
        (bytes(50_000_001), "larger than 50 MB, which no word is"),
        (save({}), "it holds no tensor"),
        (save({"clip_l": vectors(2), "clip_g": vectors(3)}), "unequal numbers of vectors: clip_g has 3, clip_l has 2"),
        (save({"t5_out": vectors(2), "lumina_out": vectors(2)}), "expected one word in the file, found 2"),
        (save({"lora_unet_down.lora_up.weight": vectors(2), "a": vectors(1)}), "it is a LoRA"),
        (save({"model.diffusion_model.out.2.weight": vectors(1)}), "a model's checkpoint"),
        (save({f"layer.{number}": vectors(1) for number in range(30)}), "holds 30 tensors, such as .*: a model"),
        (saved_by_torch({"state_dict": {"a": PLAIN}}), "a model's checkpoint"),
        (
            saved_by_torch({"<w>": torch.zeros(1).expand(10**9, 768)}),
            "1,000,000,000 vectors of 768 numbers; taken are at most",
        ),
        (saved_by_torch({"<w>": torch.ones(2, 3, dtype=torch.int64)}), "not a plain tensor of floating-point"),
        (saved_by_torch({"<w>": torch.ones(2, 3).to_sparse()}), "asks for torch._utils._rebuild_sparse_tensor"),
        (saved_by_torch({"string_to_param": {"*": PLAIN, "b": PLAIN}, "name": "w"}), "expected one word"),
        (pickle.dumps({"<w>": [0.0]}), "neither a safetensors file nor one of torch"),
        (saved_by_torch(PLAIN)[:-40], "an archive that cannot be opened"),
        (saved_by_torch({"<w>": "text"}), "has shape str"),
        (saved_by_torch([PLAIN]), "found a list"),
        (save({"<w>": NAN}), "is not finite"),
        (save({"clip_l": vectors(1), "clip_h": vectors(1)}), "expected one word in the file, found 2: clip_h, clip_l"),
        (GOOD[:-4], "neither a safetensors file"),
        (GOOD[:20], "neither a safetensors file"),
        (save({"<a>": vectors(1), "<b>": vectors(1)}), "expected one word in the file, found 2: <a>, <b>"),
        (save({"<w>": np.zeros((1, 2, 3), np.float32)}), "has shape"),
        (save({"<w>": np.zeros((), np.float32)}), "has shape"),
    ],
    ids=[
        "empty",
        "text",
        "web page",
        "store's error",
        "LFS pointer",
        "picture",
        "archive of something else",
        "archive that unpacks to much more",
        "far too large",
        "no tensor",
        "unequal rows",
        "a text encoder that nobody knows",
        "LoRA",
        "checkpoint",
        "model",
        "checkpoint of torch",
        "one number said to be a billion rows",
        "whole numbers",
        "sparse",
        "two words of A1111",
        "pickle",
        "archive cut short",
        "text for a tensor",
        "a list",
        "no numbers",
        "one strange half",
        "cut short",
        "cut in the header",
        "two words",
        "a cube",
        "a number",
    ],
)
def test_what_is_no_word_file_is_refused_with_the_reason(data: bytes, said: str) -> None:
    """Catches code run from a pickle, and a traceback where a sentence would help."""
    with pytest.raises(WordFileError, match=said):
        decode_word(data)


HALVES = torch.complex(PLAIN, PLAIN)
ODD: dict[str, Callable[[], torch.Tensor]] = {
    "quantised": lambda: torch.quantize_per_tensor(PLAIN, 0.1, 0, torch.qint8),
    "quantised by channel": lambda: torch.quantize_per_channel(PLAIN, torch.ones(2), torch.zeros(2), 0, torch.qint8),
    "meta": lambda: torch.empty(10**6, 10**6, device="meta"),
    "complex": lambda: HALVES,
    "complex, conjugated": HALVES.conj,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)]),
    "nested, jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)], layout=torch.jagged),
    "four bits": lambda: torch.zeros(2, 32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "true and false": lambda: PLAIN > 0,
    "bf16, not finite": lambda: torch.full((2, 32), float("nan")).bfloat16(),
    "f64, too large for f32": lambda: torch.full((2, 32), 1e300, dtype=torch.float64),
    "sparse, of a quintillion": lambda: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (10**9, 10**9)),
    "sparse by rows": lambda: torch.eye(8).to_sparse_csr(),
    "sparse by columns": lambda: torch.eye(8).to_sparse_csc(),
    "sparse by blocks": lambda: torch.eye(8).to_sparse_bsr((2, 2)),
    "none, of a quintillion rows": lambda: torch.empty(0).as_strided((2**60, 0), (1, 1)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says of many kinds that they are new
@pytest.mark.parametrize("write", [saved_by_torch, legacy], ids=["torch", "torch before 1.6"])
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_plain_numbers_are_refused(kind: str, write: Callable[[object], bytes]) -> None:
    """Catches an error of torch's in the middle of a run."""
    for content in ({"<w>": ODD[kind]()}, {"clip_l": ODD[kind](), "clip_l_out": PLAIN}):
        with pytest.raises(WordFileError):
            decode_word(write(content))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says of many kinds that they are new
def test_odd_tensors_take_neither_memory_nor_the_process(tmp_path: Path) -> None:
    for number, made in enumerate(ODD.values()):
        for write in (saved_by_torch, legacy):
            (tmp_path / f"{number}-{write.__name__}.pt").write_bytes(write({"<w>": made()}))
    read = (
        "from pathlib import Path\nfrom contextlib import suppress\n"
        "from pipeline.store.word_files import WordFileError, decode_word\n"
        "def read(path):\n    with suppress(WordFileError):\n        decode_word(path.read_bytes())"
    )
    grown, raised = peak_of(read, "[read(path) for path in Path(sys.argv[1]).iterdir()]", tmp_path)
    assert not raised
    assert grown < 100


@pytest.mark.parametrize("write", [saved_by_torch, legacy], ids=["torch", "torch before 1.6"])
def test_tensors_of_other_precisions_and_signs_are_read(write: Callable[[object], bytes]) -> None:
    for kind in (PLAIN.bfloat16(), PLAIN.half(), PLAIN.double(), HALVES.conj().imag):
        _, found = decode_word(write({"<w>": kind}))
        np.testing.assert_array_equal(found["text_encoder"], kind.float().resolve_neg().numpy())


@pytest.mark.parametrize("write", [pickle.dumps, saved_by_torch, legacy], ids=["bare", "torch", "torch before 1.6"])
def test_a_pickle_is_refused_without_running_it(write: Callable[[object], bytes], tmp_path: Path) -> None:
    """Catches a stranger's code run from a word file."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(WordFileError, match=r"nothing of it was run|neither a safetensors file"):
        decode_word(write({"string_to_param": {"*": Bomb()}}))
    assert not list(tmp_path.iterdir())
