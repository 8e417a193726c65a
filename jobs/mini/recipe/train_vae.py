"""Stage 1: the autoencoder, 64 x 64 x 3 pixels to 16 x 16 x 4 latents and back."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from jobs.mini.recipe.loop import Schedule, train

CROP, BATCH, FULL_BATCH = 32, 16, 8
FULL_SIZE_FROM = 0.9  # the last tenth sees whole pictures: group norms must not know crops only


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=64,
        norm_num_groups=8,
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def train_vae(pictures: np.ndarray, schedule: Schedule, checkpoint: Path) -> AutoencoderKL:
    """pictures: uint8 (N, 64, 64, 3). The scaling factor is set to 1 / std of the latents, as in Stable Diffusion."""
    torch.manual_seed(0)
    vae = new_vae()

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((1, step))
        whole = step >= FULL_SIZE_FROM * schedule.steps
        batch = as_images(_crops(pictures, rng, FULL_BATCH if whole else BATCH, 64 if whole else CROP))
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean() / (batch[0].numel())
        return (
            F.l1_loss(decoded, batch)
            + 0.5 * (decoded - batch).square().mean()
            + _edges(decoded, batch)
            + 1e-3 * divergence
        )

    train(nn.ModuleDict({"vae": vae}), loss_at, schedule, checkpoint, average=0.99)
    vae.eval().requires_grad_(False)
    scale = (
        torch.cat([vae.encode(as_images(pictures[i : i + 64])).latent_dist.mean for i in range(0, 1024, 64)])
        .std()
        .item()
    )
    vae.register_to_config(scaling_factor=1 / scale)
    return vae


def as_images(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def _crops(pictures: np.ndarray, rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    rows = rng.integers(len(pictures), size=count)
    corners = rng.integers(pictures.shape[1] - size + 1, size=(count, 2))
    return np.stack([pictures[row, y : y + size, x : x + size] for row, (y, x) in zip(rows, corners, strict=True)])


def _edges(decoded: Tensor, batch: Tensor) -> Tensor:
    error = decoded - batch
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pictures: np.ndarray, device: str = "cpu") -> Tensor:
    """The scaled posterior means of uint8 pictures, float16 (N, 4, 16, 16), on the CPU. Leaves the autoencoder on the device."""
    vae.to(device)
    batch = 32 if device == "cpu" else 2048
    scale = vae.config.scaling_factor
    latents = torch.empty(len(pictures), 4, 16, 16, dtype=torch.float16)
    for start in range(0, len(pictures), batch):
        images = as_images(np.array(pictures[start : start + batch])).to(device)
        with torch.autocast(device, torch.bfloat16):
            mean = vae.encode(images).latent_dist.mean
        latents[start : start + batch] = (mean.float() * scale).half().cpu()
    return latents
