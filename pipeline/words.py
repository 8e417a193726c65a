"""Words as files that other programs load: diffusers' {token: (V, D)} in safetensors, never pickle.

diffusers' `load_textual_inversion` reads such a file as it is; a word of several vectors becomes `<name>`, `<name>_1`,
... there, and the placeholder in its prompts stands for all of them.
"""

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load


class WordFileError(ValueError):
    """Bytes that are not a word file."""


def encode_word(placeholder: str, vectors: Mapping[str, np.ndarray]) -> bytes:
    """vectors: text encoder -> float32 (V, D); one encoder, as in Stable Diffusion 1.x and 2.x."""
    (only,) = vectors.values()
    return save({placeholder: np.ascontiguousarray(only, np.float32)})


def decode_word(data: bytes) -> tuple[str, np.ndarray]:
    """The placeholder and its vectors, float32 (V, D). Raises WordFileError."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WordFileError(f"not a safetensors file: {error}") from error
    if len(tensors) != 1:
        raise WordFileError(f"expected one word in the file, found {len(tensors)}: {', '.join(sorted(tensors)[:5])}")
    ((placeholder, vectors),) = tensors.items()
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2:
        raise WordFileError(f"the word {placeholder!r} has shape {tuple(vectors.shape)}, not (vectors, width)")
    return placeholder, vectors.float().numpy()
