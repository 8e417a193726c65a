"""Words as files, in the layouts that other programs read and write.

| layout | content |
|---|---|
| diffusers | {placeholder: (V, D)}; `load_textual_inversion` reads it as it is |
| AUTOMATIC1111 | .safetensors {"emb_params": (V, D)}, kohya's too; .pt {"string_to_param": {"*": (V, D)}, "name": ...} |
| two text encoders (SDXL) | {"clip_l": (V, D), "clip_g": (V, D)}, everywhere; diffusers is handed the two one by one |

A word of several vectors becomes `<name>`, `<name>_1`, ... in diffusers, and the placeholder in its prompts stands for all
of them. Files are read by what is in them, whatever they are called; never is a pickle run. We write safetensors only.
"""

import io
import json
import pickle  # noqa: TID251 - the name of the error by which torch refuses to run one
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load

FIRST, SECOND = "text_encoder", "text_encoder_2"
SDXL = {"clip_l": FIRST, "clip_g": SECOND}
A1111 = "emb_params"
NAME = "placeholder"  # among the metadata, where the tensors' own names say nothing of the word
Layout = Literal["diffusers", "a1111"]
# How files of torch.save begin: as a zip archive, and before torch 1.6 with a number of its own.
TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


class WordFileError(ValueError):
    """Bytes that are not a word file, or a word that does not suit the model."""


def encode_word(placeholder: str, vectors: Mapping[str, np.ndarray], layout: Layout = "diffusers") -> bytes:
    """vectors: text encoder -> float32 (V, D)."""
    if len(vectors) > 1:
        tensors = {key: vectors[encoder] for key, encoder in SDXL.items()}
    else:
        (only,) = vectors.values()
        tensors = {placeholder if layout == "diffusers" else A1111: only}
    metadata = None if placeholder in tensors else {NAME: placeholder}
    return save({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, metadata)


def decode_word(data: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """The placeholder, "" if the file does not say, and text encoder -> float32 (V, D). Raises WordFileError.

    Where there is one text encoder it is called "text_encoder", whatever the model calls it; see `suited`.
    """
    name, tensors = _read_torch(data) if data.startswith(TORCH) else _read_safetensors(data)
    return name, {encoder: _matrix(encoder, value) for encoder, value in tensors.items()}


def suited(vectors: Mapping[str, np.ndarray], encoders: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The vectors under the names of a model's text encoders (name -> width D). Raises WordFileError."""
    if len(vectors) == len(encoders) == 1:
        vectors = dict(zip(encoders, vectors.values(), strict=True))
    widths = {name: value.shape[1] for name, value in vectors.items()}
    if widths != dict(encoders):
        raise WordFileError(
            f"the word has vectors as wide as {_widths(widths)}, but the model's are {_widths(encoders)}"
        )
    return dict(vectors)


def _widths(encoders: Mapping[str, int]) -> str:
    return " and ".join(str(encoders[name]) for name in sorted(encoders))


def _read_safetensors(data: bytes) -> tuple[str, dict[str, torch.Tensor]]:
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WordFileError(f"neither a safetensors file nor one of torch: {error}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return _sort_out(tensors, header.get("__metadata__", {}).get(NAME, ""))


def _read_torch(data: bytes) -> tuple[str, dict[str, torch.Tensor]]:
    try:
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):  # of the authors' own files
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)  # noqa: TID251 - others' old files
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WordFileError(f"torch does not load it as plain tensors: {reason}") from error
    name = ""
    if isinstance(found, Mapping) and "string_to_param" in found:
        name, found = str(found.get("name") or ""), found["string_to_param"]
    if isinstance(found, torch.Tensor):
        found = {A1111: found}
    if not isinstance(found, Mapping | torch.nn.ParameterDict):
        raise WordFileError(f"expected a word's tensors by name, found a {type(found).__name__}")
    return _sort_out({str(key): value for key, value in found.items()}, name)


def _sort_out(tensors: dict[str, Any], name: str) -> tuple[str, dict[str, torch.Tensor]]:
    if set(tensors) == set(SDXL):
        return name, {SDXL[key]: value for key, value in tensors.items()}
    if len(tensors) != 1:
        raise WordFileError(f"expected one word in the file, found {len(tensors)}: {', '.join(sorted(tensors)[:5])}")
    ((key, value),) = tensors.items()
    return (name if key in (A1111, "*") else key), {FIRST: value}


def _matrix(name: str, value: object) -> np.ndarray:
    if not isinstance(value, torch.Tensor) or value.ndim not in (1, 2) or not value.numel():
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise WordFileError(f"the word's {name} has shape {shape}, not (vectors, width)")
    matrix = value.detach().float().reshape(-1, value.shape[-1]).numpy()
    if not np.isfinite(matrix).all():
        raise WordFileError(f"the word's {name} is not finite")
    return matrix
