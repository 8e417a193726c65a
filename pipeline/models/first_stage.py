"""The first stage of a latent model: pictures to scaled latents and back, by any of diffusers' autoencoders of pictures."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLQwenImage, VQModel
from torch import Tensor

from pipeline.models.base import Posterior
from pipeline.models.find import Model
from pipeline.models.weights.load_weights import load_part
from pipeline.settings import ModelSettings

KINDS = {
    "AutoencoderKL": AutoencoderKL, "VQModel": VQModel, "AutoencoderDC": AutoencoderDC,
    "AutoencoderKLQwenImage": AutoencoderKLQwenImage,
}  # fmt: skip
# What passes through it at a time: 8 pictures of 512 pixels a side, 2 of 1,024.
AT_ONCE, PIXELS_AT_ONCE = 8, 8 * 512 * 512
REST = torch.device("cpu")


class FirstStage:
    """The autoencoder. It can be used once `move_to` has been called."""

    def __init__(self, model: Model, name: str, dtype: torch.dtype, settings: ModelSettings) -> None:
        """name: of its folder. dtype: of the U-Net. The first stage runs once a picture, and most overflow in float16. So it is
        float32, unless its configuration or the settings say otherwise.

        Raises ValueError, and whatever a broken file makes the library raise.
        """
        folder = model.folder / name
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
        if kind not in KINDS:
            raise ValueError(f"{folder} is a {kind}, not {' or '.join(KINDS)}")
        self.module = load_part(model, name, KINDS[kind], torch.float32)
        if settings.first_stage_dtype != "auto":
            self.module.to(getattr(torch, settings.first_stage_dtype))
        elif dtype == torch.float16 and kind == "AutoencoderKL" and not self.module.config.force_upcast:
            self.module.to(torch.float16)
        self._offload = settings.offload_first_stage
        self._in_use = threading.Lock()

    def move_to(self, device: torch.device) -> None:
        """device: where it works."""
        self.device = device
        self.module.to(REST if self._offload else device)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        if not self._offload:
            yield
            return
        with self._in_use:  # pictures may be decoded while others are encoded
            self.module.to(self.device)
            try:
                yield
            finally:
                self.module.to(REST)

    @property
    def downsampling(self) -> int:
        """Pixels a latent, along a side."""
        match self.module:
            case AutoencoderDC():
                return int(self.module.spatial_compression_ratio)
            case AutoencoderKLQwenImage():
                return 2 ** len(self.module.config.temperal_downsample)
        return 2 ** (len(self.module.config.block_out_channels) - 1)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // self.downsampling
        channels = self.module.config.z_dim if self._is_video else self.module.config.latent_channels
        return channels, side, side

    @property
    def _is_video(self) -> bool:
        """Whether it is an autoencoder of videos; then a picture is a video of one frame: (N, C, 1, h, w)."""
        return isinstance(self.module, AutoencoderKLQwenImage)

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Posterior:
        """uint8 (N, R, R, 3) -> the posterior of their scaled latents."""
        planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        images = planes.to(self.device, torch.float32) / 127.5 - 1
        with self._at_work():
            parts = [self._posterior(some.to(self.module.dtype)) for some in images.split(_at_once(pixels.shape[1]))]
        scale, shift = self._scale_and_shift()
        return Posterior(
            torch.cat([(mean.float() - shift) * scale for mean, _ in parts]),
            torch.cat([std.float() * scale for _, std in parts]),
        )

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std (N, C, h, w), not yet scaled."""
        if self._is_video:
            posterior = self.module.encode(images[:, :, None]).latent_dist
            return posterior.mean[:, :, 0], posterior.std[:, :, 0]
        encoded: Any = self.module.encode(images)
        if isinstance(self.module, AutoencoderDC):
            return encoded.latent, torch.zeros_like(encoded.latent)
        if isinstance(self.module, VQModel):
            # The U-Net of a vector-quantised model works before the codebook, which only the decoder looks into.
            return encoded.latents, torch.zeros_like(encoded.latents)
        return encoded.latent_dist.mean, encoded.latent_dist.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents (N, C, h, w) -> uint8 (N, R, R, 3)."""
        scale, shift = self._scale_and_shift()
        with self._at_work():
            images = [
                self._decoded((some.float() / scale + shift).to(self.module.dtype)).float()
                for some in latents.split(_at_once(latents.shape[-1] * self.downsampling))
            ]
        pixels = (torch.cat(images) / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    def _decoded(self, latents: Tensor) -> Tensor:
        """(N, 3, R, R) in [-1, 1], of unscaled latents."""
        if self._is_video:
            return self.module.decode(latents[:, :, None]).sample[:, :, 0]
        return self.module.decode(latents).sample

    def _scale_and_shift(self) -> tuple[Any, Any]:
        """scale, shift: latents are (encoded - shift) * scale; numbers, or (1, C, 1, 1) where channels differ."""
        config = self.module.config
        if self._is_video:
            mean, std = (
                torch.tensor(values, device=self.device)[None, :, None, None]
                for values in (config.latents_mean, config.latents_std)
            )
            return 1 / std, mean
        return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0


def _at_once(side: int) -> int:
    return max(1, min(AT_ONCE, PIXELS_AT_ONCE // side**2))
