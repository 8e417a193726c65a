"""Latents as the sequence of 2 x 2 patches that Flux, Chroma and Qwen-Image work on."""

from torch import Tensor


def packed(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h/2 x w/2, 4 C)."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height // 2 * (width // 2), channels * 4)


def unpacked(patches: Tensor, height: int, width: int) -> Tensor:
    """(B, h/2 x w/2, 4 C) -> (B, C, h, w)."""
    batch, _, channels = patches.shape
    latents = patches.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(batch, channels // 4, height, width)
