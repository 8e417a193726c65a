"""Loads a part of a model from its single file, with diffusers' own conversions of the tensors' names."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.models.single_file.contents import OPEN_CLIP, SingleFileError, read_contents

# Tensors that are cut or turned on their way; all others are only renamed.
CHANGED = re.compile(r"attn_1\.\w+\.weight$|in_proj_(weight|bias)$|text_projection$")
SHOWN = 5


def load_converted(file: Path, part: str, kind: type[Any], folder: Path, dtype: torch.dtype) -> Any:
    """The part of a single file. kind: its class. folder: with its config.json.

    Raises SingleFileError for tensors that are missing, of another shape, or that the part does not have.
    """
    where = read_contents(file).kind.parts[part]
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys() if where.loads(name)}  # noqa: SIM118
    module = empty_part(kind, folder)
    try:
        state = converted(tensors, where.prefix, module)
    except SingleFileError as error:
        raise SingleFileError(f"{file.name}, {part}: {error}") from error
    if issubclass(kind, PreTrainedModel):
        return kind.from_pretrained(None, config=module.config, state_dict=state, dtype=dtype)
    return kind.from_single_file(state, config=str(folder), local_files_only=True, torch_dtype=dtype)


def empty_part(kind: type[Any], folder: Path) -> Any:
    """The part without its weights' numbers."""
    with torch.device("meta"):
        if issubclass(kind, PreTrainedModel):
            text: Any = kind
            return text(text.config_class.from_pretrained(folder))
        return kind.from_config(kind.load_config(folder))


def converted(tensors: Mapping[str, Tensor], prefix: str, module: Any) -> dict[str, Tensor]:
    """The tensors of a part under its module's own names. Raises SingleFileError unless they are just the module's."""
    renamed = _renamed(dict(tensors), prefix, module)
    wanted = module.state_dict()
    if missing := [name for name in wanted if name not in renamed]:
        raise SingleFileError(f"the file lacks {_listed(missing)} (in diffusers' names)")
    used = {id(value) for value in renamed.values()}
    left = [name for name, value in tensors.items() if id(value) not in used and not CHANGED.search(name)]
    if more := left + [name for name in renamed if name not in wanted]:
        raise SingleFileError(f"the file has {_listed(more)}, which this model does not have")
    if other := [name for name, value in renamed.items() if value.shape != wanted[name].shape]:
        shapes = ", ".join(
            f"{name} of {tuple(renamed[name].shape)} for {tuple(wanted[name].shape)}" for name in other[:2]
        )
        raise SingleFileError(f"the file has weights of another size: {shapes}")
    return renamed


def _renamed(tensors: dict[str, Tensor], prefix: str, module: nn.Module) -> dict[str, Tensor]:
    try:
        if prefix == "model.diffusion_model.":
            return dict(convert_ldm_unet_checkpoint(tensors, module.config))
        if prefix == "first_stage_model.":
            return dict(convert_ldm_vae_checkpoint(tensors, module.config))
        if prefix.endswith(f".{OPEN_CLIP}"):
            renamed = convert_open_clip_checkpoint(module, tensors, prefix)
        else:
            renamed = convert_ldm_clip_checkpoint(tensors)
    except (KeyError, IndexError, AttributeError) as error:  # of a tensor that is not there
        raise SingleFileError(f"the file lacks {error}") from error
    # transformers' CLIPTextModel has its layers at the top, CLIPTextModelWithProjection in text_model.
    if hasattr(module, "text_model"):
        return dict(renamed)
    return {name.removeprefix("text_model."): value for name, value in renamed.items()}


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:SHOWN]) + (f" and {len(first) - SHOWN:,} more" if len(first) > SHOWN else "")
