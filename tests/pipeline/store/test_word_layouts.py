"""What other programs find in our word files, and ours in theirs. Their rules are restated here, with the file they stand in, as
read in November 2026; diffusers' are its own code.
"""

import re
from collections.abc import Mapping
from typing import get_args

import diffusers as diffusers_library
import numpy as np
import pytest
import torch
from diffusers.loaders import TextualInversionLoaderMixin
from safetensors.numpy import load, save
from transformers import CLIPTokenizer

from pipeline.models.families import FAMILIES, Family
from pipeline.records import OUT
from pipeline.store.word_files import FIRST, Layout, WordFileError, decode_word, encode_word, suited
from tests.test_documents import ROOT

WIDTHS = {"clip_l": 4, "clip_g": 5, "t5": 6, "gemma": 7, "qwen": 8, "llama": 9, "bert": 10}
WORD = "<owl>"
Tensors = Mapping[str, np.ndarray]


def rows(key: str, count: int = 2) -> np.ndarray:
    width = WIDTHS[key.removesuffix(OUT)]
    return np.random.default_rng(len(key)).normal(size=(count, width)).astype(np.float32)


def word_of(family: Family, *, behind: bool) -> dict[str, np.ndarray]:
    return {name: rows(key) for name, key in family.word_keys.items() if name.endswith(OUT) == behind}


def widths_of(family: Family) -> dict[str, int]:
    return {name: WIDTHS[key.removesuffix(OUT)] for name, key in family.word_keys.items()}


def comfyui(tensors: Tensors, key: str) -> np.ndarray:
    """comfyanonymous/ComfyUI, comfy/sd1_clip.py, load_embed: the first of "string_to_param", else the tensor of the tokenizer's
    embedding_key, else the first.

    The key is SDTokenizer's "clip_l", "clip_g" in comfy/sdxl_clip.py, and "t5xxl" in comfy/text_encoders/sd3_clip.py.
    """
    assert "string_to_param" not in tensors
    return tensors[key] if key in tensors else next(iter(tensors.values()))


def onetrainer(tensors: Tensors, key: str) -> np.ndarray | None:
    """Nerogar/OneTrainer, modules/modelSaver/*/*EmbeddingSaver.py: by name; "emp_params", "emp_params_out" in
    stableDiffusion/StableDiffusionEmbeddingSaver.py, "clip_l", "t5" in flux/FluxEmbeddingSaver.py, "gemma" in that of sana.
    """
    return tensors.get(key)


def a1111(tensors: Tensors) -> np.ndarray | dict[str, np.ndarray]:
    """AUTOMATIC1111/stable-diffusion-webui, modules/textual_inversion/textual_inversion.py, create_embedding_from_data:
    "string_to_param" first, then clip_g with clip_l, then one tensor of any name. The word is named by its file.
    """
    assert "string_to_param" not in tensors
    if "clip_g" in tensors and "clip_l" in tensors:
        return dict(tensors)
    assert len(tensors) == 1
    return next(iter(tensors.values()))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_comfyui_finds_each_text_encoders_rows(name: str) -> None:
    """Catches "t5", under which ComfyUI would take the rows of a CLIP for T5's."""
    family = FAMILIES[name]
    word = word_of(family, behind=False)
    tensors = load(encode_word(WORD, word, family.word_keys, "comfyui"))
    for encoder, key in family.encoders.items():
        np.testing.assert_array_equal(comfyui(tensors, {"t5": "t5xxl"}.get(key, key)), word[encoder])


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_onetrainer_finds_each_text_encoders_rows(name: str, behind: bool) -> None:
    family = FAMILIES[name]
    word = word_of(family, behind=behind)
    tensors = load(encode_word(WORD, word, family.word_keys, "onetrainer"))
    alone = {"clip_l": "emp_params", "clip_l_out": "emp_params_out"} if len(family.encoders) == 1 else {}
    assert len(tensors) == len(word)
    for encoder, vectors in word.items():
        key = family.word_keys[encoder]
        np.testing.assert_array_equal(onetrainer(tensors, alone.get(key, key)), vectors)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_a1111_finds_the_word(name: str) -> None:
    family = FAMILIES[name]
    word = word_of(family, behind=False)
    found = a1111(load(encode_word(WORD, word, family.word_keys, "a1111")))
    if isinstance(found, dict):
        assert set(found) == {"clip_l", "clip_g"}
    else:
        np.testing.assert_array_equal(found, word["text_encoder"])


def diffusers(given: Tensors | np.ndarray, token: str | None = None) -> tuple[list[str], list[torch.Tensor]]:
    """Its own code: loaders/textual_inversion.py, what load_textual_inversion does with a file's tensors, or with one of them."""
    if isinstance(given, np.ndarray):
        found: object = torch.from_numpy(given)
    else:
        found = {key: torch.from_numpy(value) for key, value in given.items()}
    own = TextualInversionLoaderMixin._retrieve_tokens_and_embeddings([token], [found], CLIPTokenizer())
    return TextualInversionLoaderMixin._extend_tokens_and_embeddings(*own, CLIPTokenizer())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_diffusers_own_loader_reads_the_files_of_one_text_encoder_and_refuses_the_others(name: str) -> None:
    """Catches a sentence of the documents that is not true of the installed loader."""
    family = FAMILIES[name]
    word = word_of(family, behind=False)
    tensors = load(encode_word(WORD, word, family.word_keys, "diffusers"))
    if len(family.encoders) > 1:
        with pytest.raises(ValueError, match="Loaded state dictionary is incorrect"):
            diffusers(tensors, WORD)
        for encoder, key in family.encoders.items():  # one call for each text encoder
            tokens, rows_of = diffusers(tensors[key], WORD)
            assert tokens == [WORD, f"{WORD}_1"]
            np.testing.assert_array_equal(torch.stack(rows_of).numpy(), word[encoder])
        return
    tokens, rows_of = diffusers(tensors)
    assert tokens == [WORD, f"{WORD}_1"]
    (only,) = word.values()
    np.testing.assert_array_equal(torch.stack(rows_of).numpy(), only)


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_layout_comes_back_to_its_model(name: str, behind: bool, layout: Layout) -> None:
    family = FAMILIES[name]
    word = word_of(family, behind=behind)
    if behind and layout in ("a1111", "comfyui"):
        with pytest.raises(ValueError, match=f"<owl> stands behind its text encoder .*layout '{layout}' have no place"):
            encode_word(WORD, word, family.word_keys, layout)
        return
    data = encode_word(WORD, word, family.word_keys, layout)
    called, found = decode_word(data)
    assert called == WORD
    back = suited(found, widths_of(family), family.word_keys)
    assert back.keys() == word.keys()
    for encoder, vectors in word.items():
        np.testing.assert_array_equal(back[encoder], vectors)


# Files as OneTrainer writes them -> the family they are for, and what is read. Its word behind an encoder comes with zeros for
# what the encoder reads in its place (modules/model/BaseModel.py, BaseModelEmbedding).
THEIRS: dict[str, tuple[Tensors, str, tuple[str, ...]]] = {
    "SD": ({"emp_params": rows("clip_l")}, "StableDiffusionPipeline", ("text_encoder",)),
    "SD, behind": (
        {"emp_params": 0 * rows("clip_l"), "emp_params_out": rows("clip_l_out")}, "StableDiffusionPipeline", ("text_encoder_out",),
    ),
    "A1111": ({"emb_params": rows("clip_l")}, "StableDiffusionPipeline", ("text_encoder",)),
    "SDXL, one behind": (
        {"clip_l": rows("clip_l"), "clip_g": 0 * rows("clip_g"), "clip_g_out": rows("clip_g_out")},
        "StableDiffusionXLPipeline", ("text_encoder", "text_encoder_2_out"),
    ),
    "Flux": ({"clip_l": rows("clip_l"), "t5": rows("t5")}, "FluxPipeline", ("text_encoder", "text_encoder_2")),
    "Flux, behind": (
        {"clip_l": rows("clip_l"), "t5": 0 * rows("t5"), "t5_out": rows("t5_out")}, "FluxPipeline",
        ("text_encoder", "text_encoder_2_out"),
    ),
    "Flux of ComfyUI": ({"clip_l": rows("clip_l"), "t5xxl": rows("t5")}, "FluxPipeline", ("text_encoder", "text_encoder_2")),
    "t5xxl behind": ({"t5xxl_out": rows("t5_out")}, "ChromaPipeline", ("text_encoder_out",)),
    "PixArt": ({"t5": rows("t5")}, "PixArtSigmaPipeline", ("text_encoder",)),
    "Sana": ({"gemma": rows("gemma")}, "SanaPipeline", ("text_encoder",)),
    "Sana, behind": ({"gemma": 0 * rows("gemma"), "gemma_out": rows("gemma_out")}, "SanaPipeline", ("text_encoder_out",)),
}  # fmt: skip


@pytest.mark.parametrize("what", THEIRS)
def test_onetrainers_files_are_read_as_it_means_them(what: str) -> None:
    """Catches zeros that are taken for a word, and a word called by the name of a tensor."""
    tensors, name, encoders = THEIRS[what]
    called, found = decode_word(save(dict(tensors)))
    assert called == ""
    family = FAMILIES[name]
    word = suited(found, widths_of(family), family.word_keys)
    assert tuple(word) == encoders
    assert all(vectors.any() for vectors in word.values())


@pytest.mark.parametrize(
    ("keys", "name", "said"),
    [
        (("llama",), "FluxPipeline", "vectors for llama; this model's text encoders are clip_l, t5$"),
        (("clip_l_out",), "FluxPipeline", "vectors for clip_l_out; this model's text encoders are clip_l, t5, t5_out$"),
        (("t5_out",), "StableDiffusionPipeline", "vectors for t5_out; this model's .* clip_l, clip_l_out$"),
        (("gemma", "qwen"), "SanaPipeline", "vectors for gemma, qwen; this model's text encoders are gemma$"),
    ],
)
def test_a_word_of_other_text_encoders_is_refused_by_name(keys: tuple[str, ...], name: str, said: str) -> None:
    family = FAMILIES[name]
    found = decode_word(save({key: rows(key) for key in keys}))[1]
    with pytest.raises(WordFileError, match=said):
        suited(found, widths_of(family), family.word_keys)


def test_a_width_of_another_model_is_refused_behind_the_encoder_too() -> None:
    found = {FIRST + OUT: np.ones((1, 9), np.float32)}
    family = FAMILIES["StableDiffusionPipeline"]
    with pytest.raises(WordFileError, match="vectors as wide as 9, but the model's are 4"):
        suited(found, widths_of(family), family.word_keys)


def _row_of(family: Family) -> tuple[str, str]:
    """The text encoders and the loader that docs/reference.md states for the family."""
    title = {"Stable Diffusion": "Stable Diffusion 1.x", "Stable Diffusion 3": "Stable Diffusion 3, 3.5"}
    table = (ROOT / "docs/reference.md").read_text(encoding="utf-8").partition("diffusers' own loader for words |")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:] if line.startswith("|")]
    wanted = title.get(family.title, family.title)
    return next((row[1], row[3]) for row in rows if wanted in row[0])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_documents_say_of_every_family_how_its_words_load(name: str) -> None:
    """Catches a sentence that stays when diffusers gives a pipeline the loader, or takes it away."""
    family, has_loader = FAMILIES[name], issubclass(getattr(diffusers_library, name), TextualInversionLoaderMixin)
    encoders, loader = _row_of(family)
    several = len(family.encoders) > 1
    assert loader == (
        "none" if not has_loader else "one call for each text encoder" if several else "reads the file as it is"
    )
    assert re.findall(r"`(\w+)`", encoders) == (list(family.encoders.values()) if several else [])
    named = (ROOT / "README.md").read_text(encoding="utf-8").partition("load_textual_inversion reads it as")[0]
    short = {"Stable Diffusion": "Stable Diffusion 1.x, 2.x"}.get(family.title, family.title)
    assert (short in named.rpartition("the learned word;")[2]) == (loader == "reads the file as it is")
