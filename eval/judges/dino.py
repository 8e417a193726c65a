"""DINO, DreamBench's second judge of pictures (Ruiz et al. 2023): any timm model, loaded from a weights file on disk.

    timm:vit_small_patch16_224.dino:WEIGHTS.safetensors     ViT-S/16 of Caron et al. 2021, the published choice

DINO was trained without labels or texts, so it distinguishes two cats that CLIP, trained on captions, may not. Nothing is
downloaded: the weights come from a path.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from eval.judges.clip import BATCH
from eval.judges.judge import TIMM, Features, Picture


class TimmScorer:
    """A timm model that returns pooled features, in fp32 and eval mode, with the preprocessing timm states for its weights."""

    def __init__(self, name: str, architecture: str, weights: Path, device: str) -> None:
        self.name = name
        self._model: Any = timm.create_model(architecture, pretrained=False, num_classes=0)
        state = load_file(weights)
        wanted = self._model.state_dict()
        missing = sorted(wanted.keys() - state.keys())
        if missing:
            raise ValueError(f"{weights} lacks {len(missing)} weights of {architecture}, such as {missing[0]}")
        # Other weights in the file, such as a classifier's, are not needed for features.
        self._model.load_state_dict({key: state[key] for key in wanted})
        self._model.eval().requires_grad_(False).to(device)
        self._device = device
        preprocessing = resolve_model_data_config(self._model)
        self._prepare = create_transform(**preprocessing, is_training=False)
        digest = hashlib.sha256(json.dumps([architecture, preprocessing], sort_keys=True, default=str).encode())
        for key in sorted(wanted):
            digest.update(f"{key}\0{state[key].dtype}\0{tuple(state[key].shape)}\0".encode())
            digest.update(state[key].contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        """Pictures, PIL or uint8 (H, W, 3), of any sizes -> float32 (N, D), rows of length one."""
        features = [np.empty((0, self._model.num_features), np.float32)]
        for start in range(0, len(pictures), BATCH):
            batch = torch.stack([self._prepared(picture) for picture in pictures[start : start + BATCH]])
            features.append(F.normalize(self._model(batch.to(self._device)).float(), dim=-1).cpu().numpy())
        return np.concatenate(features)

    def _prepared(self, picture: Picture) -> torch.Tensor:
        opened = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        prepared: torch.Tensor = self._prepare(opened.convert("RGB"))
        return prepared


def load_timm(name: str, device: str = "cpu") -> TimmScorer:
    """name: "timm:ARCHITECTURE:FILE". Raises ValueError or FileNotFoundError."""
    architecture, _, file = name.removeprefix(TIMM).partition(":")
    if not file or not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture.split('.')[0]}*")[:4]
        raise ValueError(
            f"{name!r} must be timm:ARCHITECTURE:FILE with an architecture that timm knows"
            + (f", for instance {', '.join(near)}" if near else "")
        )
    weights = Path(file)
    if not weights.is_file():
        raise FileNotFoundError(f"{name!r}: {weights} does not exist")
    try:
        return TimmScorer(name, architecture, weights, device)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{name!r}: {weights} is not a safetensors file of {architecture}: {error}") from error
