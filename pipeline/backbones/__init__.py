"""Frozen text-to-image models, one file a family, chosen by the class that model_index.json names."""

from collections.abc import Callable

import torch

from pipeline.backbones.base import Backbone, Conditioning, Posterior, PromptError, Tokens
from pipeline.backbones.ldm import LatentDiffusion
from pipeline.backbones.stable_diffusion import StableDiffusion
from pipeline.backbones.stable_diffusion_xl import StableDiffusionXL
from pipeline.models import Model, find_model

__all__ = ["Backbone", "Conditioning", "Posterior", "PromptError", "Tokens", "load_backbone"]

FAMILIES: dict[str, Callable[[Model, torch.device, torch.dtype], Backbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "LDMTextToImagePipeline": LatentDiffusion,
}


def load_backbone(name: str, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """Loads a frozen model. dtype: of the U-Net and the text encoders; see FirstStage for its own.

    Raises ModelError.
    """
    model = find_model(name)
    return FAMILIES[model.family](model, torch.device(device), getattr(torch, dtype))
