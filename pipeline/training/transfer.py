"""Copies all tensors of a step from the CPU to the model's device at once."""

from collections.abc import Mapping

import torch
from torch import Tensor

ALIGNED = 16  # bytes: each tensor begins at a multiple of it, whatever its type


def brought(parts: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on the device, by one copy. From pinned memory, which torch keeps until the copy is done, a GPU makes it
    without the host waiting.
    """
    if device.type == "cpu":
        return {name: part.to(device) for name, part in parts.items()}
    packed = torch.empty(packed_size(parts), dtype=torch.uint8, pin_memory=device.type == "cuda")
    pack(parts, packed)
    return unpack(packed.to(device, non_blocking=True), parts)


def packed_size(parts: Mapping[str, Tensor]) -> int:
    """Bytes that `pack` needs."""
    return sum(_padded(part.nbytes) for part in parts.values())


def pack(parts: Mapping[str, Tensor], into: Tensor) -> None:
    """Writes the parts one after the other into uint8 (`packed_size`,)."""
    for name, view in unpack(into, parts).items():
        view.copy_(parts[name])


def unpack(packed: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of what `pack` wrote, with the names, types and shapes of `like`."""
    views, begin = {}, 0
    for name, part in like.items():
        views[name] = packed[begin : begin + part.nbytes].view(part.dtype).view(part.shape)
        begin += _padded(part.nbytes)
    return views


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
