"""Every random draw comes from (run seed, concept, purpose, step), never from a worker, an order or a batch position."""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, concept: str, purpose: str, step: int = 0) -> int:
    """A 63-bit seed. Draws of different purposes are independent; the same arguments give the same seed everywhere.

    >>> derive_seed(0, "owl", "noise", 7) == derive_seed(0, "owl", "noise", 7) != derive_seed(0, "owl", "noise", 8)
    True
    """
    digest = hashlib.sha256(f"{seed}\0{concept}\0{purpose}\0{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(seed: int, concept: str, purpose: str, step: int = 0) -> torch.Generator:
    """On the CPU whatever the model's device, so that a word does not depend on the make of a GPU's generator."""
    return torch.Generator().manual_seed(derive_seed(seed, concept, purpose, step))


def numpy_generator(seed: int, concept: str, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, concept, purpose))
