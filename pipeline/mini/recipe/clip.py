"""Stage 2: the CLIP that scores, a small open_clip model trained on the same world, held-out things included."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pipeline.mini.recipe.loop import Schedule, train
from pipeline.mini.recipe.tokenizer import CONTEXT
from pipeline.mini.recipe.vae import as_images

BATCH = 128
NOUNLESS = 0.12  # share of captions trained without their noun: editability scores prompts with the word left out


def model_config(vocabulary: int) -> dict:
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 160, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "width": 128,
            "heads": 4,
            "layers": 3,
            "hf_tokenizer_name": "tokenizer",
        },
    }


PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}


def new_clip(vocabulary: int) -> nn.Module:
    config = model_config(vocabulary)
    text = {key: value for key, value in config["text_cfg"].items() if key != "hf_tokenizer_name"}
    return open_clip.model.CLIP(config["embed_dim"], config["vision_cfg"], text)


def train_clip(
    pictures: np.ndarray,
    captions: list[str],
    names: list[tuple[str, ...]],
    tokenizer: CLIPTokenizer,
    schedule: Schedule,
    checkpoint: Path,
) -> nn.Module:
    """pictures: uint8 (N, 64, 64, 3); names: the things each caption mentions."""
    torch.manual_seed(0)
    clip: Any = new_clip(len(tokenizer))
    full = tokenise(tokenizer, captions)
    nounless = tokenise(tokenizer, [without_nouns(said, things) for said, things in zip(captions, names, strict=True)])

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((2, step))
        rows = rng.integers(len(pictures), size=BATCH)
        batch = pictures[rows]
        mirrored = rng.random(BATCH) < 0.5
        batch[mirrored] = batch[mirrored, :, ::-1]
        bare = torch.from_numpy(rng.random(BATCH) < NOUNLESS)[:, None]
        images = F.normalize(clip.encode_image(as_images(batch)).float(), dim=-1)
        texts = F.normalize(clip.encode_text(torch.where(bare, nounless[rows], full[rows])).float(), dim=-1)
        logits = clip.logit_scale.exp().clamp(max=100) * images @ texts.T
        # Two scenes may deserve the same words: identical captions are not each other's negatives.
        same = (full[rows][:, None] == full[rows][None]).all(-1) & ~torch.eye(BATCH, dtype=torch.bool)
        logits = logits.masked_fill(same, float("-inf"))
        target = torch.arange(BATCH)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    train(nn.ModuleDict({"clip": clip}), loss_at, schedule, checkpoint, average=0.97)
    trained: nn.Module = clip.eval().requires_grad_(False)
    return trained


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """int64 (N, 32)."""
    return tokenizer(texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids


def without_nouns(said: str, things: tuple[str, ...]) -> str:
    """The caption with its things, and the articles before them, left out."""
    for thing in things:
        said = re.sub(rf"(?:\b(?:an?|the|my|one|two) )?(?:\w+ )?{re.escape(thing)}\w*", "", said, count=1)
    return " ".join(said.split())


def save_clip(clip: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """open_clip's local-dir layout, fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_config(len(tokenizer)), "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {
        name: value.half().contiguous() for name, value in clip.state_dict().items() if value.is_floating_point()
    }
    save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(folder)
