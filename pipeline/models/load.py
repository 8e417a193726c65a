"""Frozen text-to-image models, one file a family, chosen by the class that model_index.json names."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipeline.models.base import Backbone, Conditioning, Posterior, PromptError, Tokens
from pipeline.models.find import Model, ModelError, find_model
from pipeline.models.ldm import LatentDiffusion
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.models.stable_diffusion_xl import StableDiffusionXL
from pipeline.settings import ModelSettings

__all__ = ["Backbone", "Conditioning", "Posterior", "PromptError", "Tokens", "load_backbone"]

FAMILIES: dict[str, Callable[[Model, torch.device, ModelSettings], Backbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "LDMTextToImagePipeline": LatentDiffusion,
}


def load_backbone(
    name: str,
    device: str = "cpu",
    settings: ModelSettings | None = None,
    options: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> Backbone:
    """Loads a frozen model.

    options: for the store of a model that is a URL. digest: that its weights must have.
    Raises ModelError.
    """
    model = find_model(name, options)
    if digest is not None and model.digest != digest:
        raise ModelError(
            f"model {model.name!r} in {model.folder} on this machine has weights {model.digest[:12]}, and the run was begun "
            f"with {digest[:12]}: the nodes do not have the same model"
        )
    return FAMILIES[model.family](model, torch.device(device), settings or ModelSettings())
