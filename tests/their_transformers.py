"""What diffusers itself makes of a word with each family of transformers: what ours is compared with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor

from tests.test_documents import ROOT, blocks

# What a pipeline is told besides, so that it draws as its family's training does.
TOLD: dict[str, dict[str, Any]] = {
    "pixart": {"use_resolution_binning": False},
    "sana": {"use_resolution_binning": False, "complex_human_instruction": None},
    "qwen_image": {"negative_prompt": ""},
}
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}


def encoders(theirs: Any) -> list[str]:
    return [name for name in TOKENIZERS if getattr(theirs, name, None) is not None]


def names_of(placeholder: str, count: int) -> list[str]:
    """A word of several vectors is several tokens."""
    return [placeholder, *(f"{placeholder}_{row}" for row in range(1, count))]


def documented(name: str) -> Callable[[Any, Any, str, Tensor], str]:
    """A function of docs/reference.md: `add_word` for pipelines without a loader, `add_word_behind` for words behind an encoder."""
    names: dict[str, Any] = {}
    for language, text in blocks(ROOT / "docs/reference.md"):
        if language == "python" and "def add_word" in text:
            exec(text, names)  # noqa: S102 - our own document
    return cast("Callable[[Any, Any, str, Tensor], str]", names[name])


def load_word(theirs: Any, placeholder: str, vectors: Mapping[str, np.ndarray]) -> None:
    add_word = documented("add_word")
    for name in encoders(theirs):
        add_word(getattr(theirs, TOKENIZERS[name]), getattr(theirs, name), placeholder, torch.from_numpy(vectors[name]))


def expanded(theirs: Any, prompt: str, words: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """The prompt as the pipeline wants it: some expand words of several vectors by themselves."""
    if isinstance(theirs, TextualInversionLoaderMixin):
        return prompt
    for placeholder, vectors in words.items():
        prompt = prompt.replace(placeholder, "".join(names_of(placeholder, len(next(iter(vectors.values()))))))
    return prompt


def tables(theirs: Any) -> dict[str, Tensor]:
    """Text encoder -> its table of token embeddings, asking for a gradient; loaded words are its last rows."""
    return {name: getattr(theirs, name).get_input_embeddings().weight.requires_grad_(True) for name in encoders(theirs)}


def predict(family: str, theirs: Any, prompts: Sequence[str], noisy: Tensor, times: Tensor) -> Tensor:
    """The transformer's output (B, C, h, w) for expanded prompts, with a gradient, by the pipeline's own methods."""
    height, width = noisy.shape[2:]
    texts, patches = list(prompts), (height // 2) * (width // 2)
    match family:
        case "sd3":
            context, _, pooled, _ = theirs.encode_prompt(texts, texts, texts, do_classifier_free_guidance=False)
            return theirs.transformer(noisy, context, pooled, times).sample
        case "pixart" | "sana":
            context, mask, *_ = theirs.encode_prompt(texts, do_classifier_free_guidance=False)
            sizes = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}} if family == "pixart" else {}
            told = {"encoder_hidden_states": context, "encoder_attention_mask": mask, "timestep": times} | sizes
            return theirs.transformer(noisy, **told).sample[:, : noisy.shape[1]]
        case "z_image":
            contexts, _ = theirs.encode_prompt(texts, do_classifier_free_guidance=False)
            said = theirs.transformer(list(noisy[:, :, None]), (1000 - times) / 1000, contexts).sample
            return -torch.stack([each[:, 0] for each in said])
        case "flux":
            context, pooled, text_ids = theirs.encode_prompt(texts, None)
            told = {"pooled_projections": pooled, "guidance": torch.ones(len(noisy)).to(noisy), "txt_ids": text_ids}
        case "chroma":
            context, text_ids, mask, *_ = theirs.encode_prompt(texts, do_classifier_free_guidance=False)
            whole = theirs._prepare_attention_mask(len(noisy), patches, context.dtype, mask)
            told = {"attention_mask": whole, "txt_ids": text_ids}
        case _:
            context, mask = theirs.encode_prompt(texts)
            told = {"encoder_hidden_states_mask": mask, "img_shapes": [[(1, height // 2, width // 2)]] * len(noisy)}
    if family != "qwen_image":
        told["img_ids"] = theirs._prepare_latent_image_ids(len(noisy), height // 2, width // 2, "cpu", context.dtype)
    packed = theirs._pack_latents(noisy, len(noisy), noisy.shape[1], height, width)
    said = theirs.transformer(hidden_states=packed, timestep=times / 1000, encoder_hidden_states=context, **told).sample
    pixels = (height * theirs.vae_scale_factor, width * theirs.vae_scale_factor)
    latents = theirs._unpack_latents(said, *pixels, theirs.vae_scale_factor)
    return latents[:, :, 0] if latents.ndim == 5 else latents


def draw(family: str, theirs: Any, prompt: str, seed: int, steps: int, guidance: float, side: int) -> np.ndarray:
    """uint8 (R, R, 3) by the pipeline as it is called by its users."""
    theirs.set_progress_bar_config(disable=True)
    scale = "true_cfg_scale" if family == "qwen_image" else "guidance_scale"
    told = TOLD.get(family, {}) | {scale: guidance, "generator": torch.Generator().manual_seed(seed)}
    (picture,) = theirs(prompt, num_inference_steps=steps, height=side, width=side, **told).images
    return np.asarray(picture)
