"""Stage 2: the CLIP that scores, a small open_clip model trained on the same world, held-out things included."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from jobs.mini.recipe.loop import Schedule, train
from jobs.mini.recipe.pools import Pool
from jobs.mini.recipe.scenes import Scene
from jobs.mini.recipe.tokenizer import CONTEXT
from jobs.mini.recipe.train_vae import as_images

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
    pool: Pool, tokenizer: CLIPTokenizer, schedule: Schedule, checkpoint: Path, start: Path | None = None
) -> nn.Module:
    """Trains a CLIP, new or that of `start`, on the pool.

    Every other batch has scenes that differ in their thing only. In random scenes, background and style distinguish most pairs, so
    the CLIP would learn to recognise things last.
    """
    torch.manual_seed(0)
    clip: Any = new_clip(len(tokenizer))
    if start:
        clip.load_state_dict({name: value.float() for name, value in load_file(start).items()}, strict=False)
    full = tokenise(tokenizer, pool.captions)
    nounless = tokenise(tokenizer, [without_nouns(*pair) for pair in zip(pool.captions, pool.scenes, strict=True)])
    alike = [replace(scene, drawings=()) for scene in pool.scenes]
    number = {scene: index for index, scene in enumerate(dict.fromkeys(alike))}
    numbers = torch.tensor([number[scene] for scene in alike])
    plain = np.array([index for index, scene in enumerate(alike) if scene == Scene(scene.things, ())])

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((2, step))
        told_by_thing = step % 2 == 1
        rows = rng.choice(plain, BATCH) if told_by_thing else rng.integers(len(full), size=BATCH)
        bare = torch.from_numpy(rng.random(BATCH) < (0 if told_by_thing else NOUNLESS))[:, None]
        images = F.normalize(clip.encode_image(_softened(pool.pictures[rows], rng)).float(), dim=-1)
        tokens = torch.where(bare, nounless[rows], full[rows])
        texts = F.normalize(clip.encode_text(tokens).float(), dim=-1)
        logits = clip.logit_scale.exp().clamp(max=100) * images @ texts.T
        # Pairs with the same scene or the same caption are not negatives.
        same = (numbers[rows][:, None] == numbers[rows]) | (tokens[:, None] == tokens).all(-1)
        logits = logits.masked_fill(same & ~torch.eye(BATCH, dtype=torch.bool), float("-inf"))
        target = torch.arange(BATCH)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    train(nn.ModuleDict({"clip": clip}), loss_at, schedule, checkpoint, average=0.97)
    trained: nn.Module = clip.eval().requires_grad_(False)
    return trained


def _softened(pictures: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Images in [-1, 1], half of them mirrored and a quarter blurred a little: what is judged comes out of an autoencoder."""
    mirrored = rng.random(len(pictures)) < 0.5
    pictures[mirrored] = pictures[mirrored, :, ::-1]
    images = as_images(pictures)
    by = torch.from_numpy(rng.random(len(images)) * (rng.random(len(images)) < 0.25)).float()[:, None, None, None]
    return torch.lerp(images, F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), by)


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """int64 (N, 32)."""
    return tokenizer(texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids


def without_nouns(said: str, scene: Scene) -> str:
    """The caption with its things, and the articles before them, left out."""
    for thing in scene.things:
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
