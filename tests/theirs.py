"""What diffusers itself makes of a model and a word: what ours is compared with, family by family."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LDMTextToImagePipeline, StableDiffusionXLPipeline
from safetensors.torch import load
from torch import Tensor, nn

from pipeline.models.families import family_of
from pipeline.store.model_spec import WordSpec
from pipeline.store.word_files import decode_word, encode_word
from tests.tiny_model import LDM_CONTEXT, PIXELS

SPEC = WordSpec("word", "stable-diffusion-v1", "object", PIXELS)


def load_word(theirs: Any, placeholder: str, vectors: Mapping[str, np.ndarray], scratch: Path) -> None:
    """Through our file, by diffusers' own loader; for latent diffusion, which has none, by ours."""
    file = scratch / "word.safetensors"
    file.write_bytes(encode_word(placeholder, vectors, family_of(type(theirs).__name__).encoders, spec=SPEC))
    if isinstance(theirs, StableDiffusionXLPipeline):
        tensors = load(file.read_bytes())
        theirs.load_textual_inversion(tensors["clip_l"], placeholder, theirs.tokenizer, theirs.text_encoder)
        theirs.load_textual_inversion(tensors["clip_g"], placeholder, theirs.tokenizer_2, theirs.text_encoder_2)
    elif isinstance(theirs, LDMTextToImagePipeline):
        _, found = decode_word(file.read_bytes())
        (rows,) = found.values()
        theirs.tokenizer.add_tokens([placeholder, *(f"{placeholder}_{row}" for row in range(1, len(rows)))])
        old = theirs.bert.get_input_embeddings().weight
        theirs.bert.set_input_embeddings(
            nn.Embedding.from_pretrained(torch.cat([old.detach(), torch.from_numpy(rows)]))
        )
    else:
        theirs.load_textual_inversion(file)


def expanded(theirs: Any, prompt: str, words: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """The prompt as the pipeline wants it: diffusers' own loader expands words of several vectors by itself."""
    if isinstance(theirs, LDMTextToImagePipeline):
        for placeholder, vectors in words.items():
            (rows,) = vectors.values()
            names = (placeholder, *(f"{placeholder}_{row}" for row in range(1, len(rows))))
            prompt = prompt.replace(placeholder, " ".join(names))
    return prompt


def tables(theirs: Any) -> dict[str, Tensor]:
    """Text encoder -> its table of token embeddings, asking for a gradient; loaded words are its last rows."""
    names = [name for name in ("text_encoder", "text_encoder_2", "bert") if hasattr(theirs, name)]
    return {name: getattr(theirs, name).get_input_embeddings().weight.requires_grad_(True) for name in names}


def predict(theirs: Any, prompts: Sequence[str], noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The U-Net's output (B, C, h, w) for expanded prompts, with a gradient."""
    if isinstance(theirs, StableDiffusionXLPipeline):
        context, _, pooled, _ = theirs.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        whole = (PIXELS, PIXELS)
        sizes = theirs._get_add_time_ids(whole, (0, 0), whole, context.dtype, pooled.shape[-1])
        told = {"text_embeds": pooled, "time_ids": sizes.repeat(len(prompts), 1)}
        return theirs.unet(noisy, timesteps, context, added_cond_kwargs=told).sample
    if isinstance(theirs, LDMTextToImagePipeline):
        ids = theirs.tokenizer(
            list(prompts), padding="max_length", max_length=LDM_CONTEXT, return_tensors="pt"
        ).input_ids
        return theirs.unet(noisy, timesteps, theirs.bert(ids)[0]).sample
    multi = theirs.maybe_convert_prompt(list(prompts), theirs.tokenizer)
    ids = theirs.tokenizer(multi, padding="max_length", return_tensors="pt").input_ids
    return theirs.unet(noisy, timesteps, theirs.text_encoder(ids).last_hidden_state).sample


def draw(theirs: Any, prompt: str, seed: int, steps: int, guidance: float) -> np.ndarray:
    """uint8 (R, R, 3) by the pipeline as it is called by its users."""
    told = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": torch.Generator().manual_seed(seed)}
    if isinstance(theirs, LDMTextToImagePipeline):
        # It takes every first stage for one that reduces a side to an eighth; ours halves it.
        told |= {"height": 8 * PIXELS // 2, "width": 8 * PIXELS // 2}
    (picture,) = theirs(prompt, **told).images
    return np.asarray(picture)
