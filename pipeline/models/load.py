"""Loads a frozen text-to-image model: the class of its family, chosen by what model_index.json names."""

import functools
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from pipeline.models.base import Backbone
from pipeline.models.families import FAMILIES
from pipeline.models.find import ModelError, find_model
from pipeline.settings import ModelSettings


def load_backbone(
    name: str,
    device: str = "cpu",
    settings: ModelSettings | None = None,
    options: Mapping[str, Any] | None = None,
    digest: str | None = None,
    config_digest: str = "",
) -> Backbone:
    """Loads a frozen model.

    options: for the store of a model that is a URL. digest: that its weights must have. config_digest: that its scheduler and
    tokenizers must have, "" for any.
    Raises ModelError.
    """
    model = find_model(name, options)
    if digest is not None and model.digest != digest:
        raise ModelError(
            f"model {model.name!r} in {model.folder} on this machine has weights {model.digest[:12]}, and the run was begun "
            f"with {digest[:12]}: the nodes do not have the same model"
        )
    if config_digest not in ("", model.config_digest):
        raise ModelError(
            f"model {model.name!r} in {model.folder} on this machine has another scheduler or tokenizer than where the run was "
            "begun: the nodes do not have the same model"
        )
    family = FAMILIES[model.family]
    backbone: Any = getattr(import_module(family.module), family.backbone)
    loaded: Backbone = backbone(model, torch.device(device), settings or ModelSettings())
    return loaded


def cached_backbone(
    name: str,
    device: str,
    settings: ModelSettings,
    options: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> Backbone:
    """`load_backbone`, which keeps the last model it loaded: Ray runs many tasks in one process, and the first loads it."""
    return _cached(name, device, settings, json.dumps(dict(options or {}), sort_keys=True), digest)


@functools.lru_cache(maxsize=1)
def _cached(name: str, device: str, settings: ModelSettings, options: str, digest: str | None) -> Backbone:
    # Options come as JSON, because a dict cannot be a key of the cache.
    return load_backbone(name, device, settings, json.loads(options), digest)
