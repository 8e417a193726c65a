"""Weights of a frozen model: loaded whole, checked, frozen, and digested."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.models.find import Model
from pipeline.models.single_file.conversion import load_converted
from pipeline.models.weights.stated_size import refuse_outsized
from pipeline.models.weights.weight_files import weight_files


def load_part(model: Model, name: str, kind: type[Any], dtype: torch.dtype) -> Any:
    """A part of the model, by its folder's name. Raises ValueError if weights are missing, and whatever broken files make the
    libraries raise.
    """
    folder = model.folder / name
    if model.file is not None:
        return load_converted(model.file, name, kind, folder, dtype)
    return load_whole(kind, folder, **{"dtype" if issubclass(kind, PreTrainedModel) else "torch_dtype": dtype})


def load_whole(kind: type[Any], folder: Path, **precision: torch.dtype | str) -> Any:
    """The model in the folder. Raises ValueError if weights are missing, which the library would fill with random numbers, and
    ConfigurationError, with nothing allocated, for a configuration that states more than the weights hold.
    """
    variant, files = weight_files(folder)
    refuse_outsized(kind, folder, files)
    part, loaded = kind.from_pretrained(
        folder, use_safetensors=True, variant=variant, output_loading_info=True, **precision
    )
    if loaded["missing_keys"]:
        raise ValueError(f"{folder} lacks the weights {', '.join(sorted(loaded['missing_keys'])[:5])}")
    return part


def freeze(part: nn.Module) -> None:
    """Switches gradients of the weights and dropout off. Raises ValueError if a weight is not finite."""
    part.requires_grad_(False).eval()
    for name, value in part.named_parameters():
        if not all(torch.isfinite(each).all() for each in stored(value)):
            raise ValueError(f"weight {name} of {type(part).__name__} is not finite")


def stored(weight: Any) -> list[Tensor]:
    """The plain tensors of a weight: of a quantised one its numbers, and their scales."""
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight]
    return [each for name in weight.__tensor_flatten__()[0] for each in stored(getattr(weight, name))]


def digest(parts: Mapping[str, nn.Module]) -> str:
    """Hex sha256 of the parts' names, and of their weights' names and bytes as they are in memory."""
    hashed = hashlib.sha256()
    for part, module in sorted(parts.items()):
        for name, value in sorted(module.state_dict().items()):
            hashed.update(f"{part}/{name}".encode())
            # Flat: of a convolution of one pixel in channels-last order, the last dimension's stride is not 1.
            for each in stored(value):
                hashed.update(each.detach().contiguous().reshape(-1).cpu().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
