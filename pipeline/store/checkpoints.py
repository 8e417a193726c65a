"""A concept in mid-training as a file of a few kilobytes: all that the next step depends on.

There is no state of a random generator in it: every draw comes from (seed, concept, purpose, step).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

CHECKPOINT_SECONDS = 60.0  # between two checkpoints of a word: what a lost machine costs of it
TABLES = ("vectors", "first_moments", "second_moments")
SAID = ("concept", "fingerprint", "step", "learning_rate", "seconds", "losses")
HEADER = "header"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the training of one word stands.

    vectors, first_moments, second_moments: text encoder -> float32 (V, D): the word, and Adam's running means of its
    gradient and of the gradient's square.
    losses: of the fixed validation batch, oldest first: what early stopping looks at.
    seconds: spent in training so far, by whoever did it.
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
    """None for bytes that are no checkpoint of this version: training then starts from the beginning, as without one."""
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
