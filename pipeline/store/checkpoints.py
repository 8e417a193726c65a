"""Step checkpoints: a file of a few kilobytes with all that a concept's next training step depends on.

It holds no generator state, because every draw is a function of (seed, concept, purpose, step).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

CHECKPOINT_SECONDS = (
    60.0  # between two checkpoints of a word, so a lost machine costs at most this much of its training
)
TABLES = ("vectors", "first_moments", "second_moments", "best")
SAID = ("concept", "fingerprint", "step", "learning_rate", "seconds", "losses")
HEADER = "header"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the training of one word stands.

    vectors, first_moments, second_moments: text encoder -> float32 (V, D): the word, and Adam's running means of its
    gradient and squared gradient.
    best: the word at the look of the lowest validation loss, of the same shape; {} where none is kept.
    losses: validation losses, oldest first, for early stopping.
    seconds: of training so far, over all attempts.
    """

    concept: str
    fingerprint: str
    step: int
    learning_rate: float
    seconds: float
    losses: tuple[float, ...]
    vectors: Mapping[str, np.ndarray]
    first_moments: Mapping[str, np.ndarray]
    second_moments: Mapping[str, np.ndarray]
    best: Mapping[str, np.ndarray] = field(default_factory=dict)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    tensors = {
        f"{table}/{encoder}": np.ascontiguousarray(values, np.float32)
        for table in TABLES
        for encoder, values in getattr(checkpoint, table).items()
    }
    said = {name: getattr(checkpoint, name) for name in SAID}
    # As a tensor, because safetensors' own metadata cannot be read back from bytes.
    return save(tensors | {HEADER: np.frombuffer(json.dumps(said).encode(), np.uint8)})


def decode_checkpoint(data: bytes) -> Checkpoint | None:
    """None for bytes that are not a checkpoint of this version. Training then starts from the beginning."""
    try:
        tensors = load(data)
        said: dict[str, Any] = json.loads(tensors.pop(HEADER).tobytes())
        tables: dict[str, dict[str, np.ndarray]] = {table: {} for table in TABLES}
        for name, values in tensors.items():
            table, encoder = name.split("/", 1)
            tables[table][encoder] = values
        said["losses"] = tuple(said["losses"])
        return Checkpoint(**{**said, **tables})
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, AttributeError):
        return None
