"""A straightforward trainer in the manner of public scripts, as the baseline of bench.py and full_size.py.

plain_over_ours_per_image  seconds a training picture of that trainer over those of ours, batch of 4, one concept
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

WEIGHT_DECAY = 1e-2


class PlainTrainer:
    """Textual Inversion of one concept as public scripts do it, on a Stable Diffusion 1.x in diffusers' layout.

    Every step encodes its pictures again, runs the text encoder with its whole embedding table trainable, lets AdamW
    update all of it, and puts back every row but the new word's.
    """

    def __init__(self, folder: Path, device: str, dtype: torch.dtype, placeholder: str, initializer: str) -> None:
        """dtype: of the frozen U-Net; the autoencoder and the text encoder, which is trained, are float32."""
        self.device = torch.device(device)
        self.unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(device)
        self.vae: Any = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)
        text: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        self.text = text.to(device)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.noising = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.tokenizer.add_tokens(placeholder)
        self.placeholder = placeholder
        start = self.tokenizer(initializer, add_special_tokens=False).input_ids[0]
        self.text.resize_token_embeddings(max(len(self.tokenizer), self.text.config.vocab_size), mean_resizing=False)
        for part in (self.unet, self.vae, self.text):
            part.requires_grad_(False)
        self.table: Tensor = self.text.get_input_embeddings().weight.requires_grad_()
        self.row = self.tokenizer.convert_tokens_to_ids(placeholder)
        with torch.no_grad():
            self.table[self.row] = self.table[start]
        self.before = self.table.detach().clone()
        self.optimiser = torch.optim.AdamW([self.table], lr=5e-3, weight_decay=WEIGHT_DECAY)
        self.generator = torch.Generator().manual_seed(0)

    def step(self, pixels: Tensor) -> float:
        """pixels: float32 (B, 3, R, R) in [-1, 1]. Returns the loss."""
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self.device)).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=self.generator).to(self.device)
        timesteps = torch.randint(self.noising.config.num_train_timesteps, (len(latents),), generator=self.generator)
        timesteps = timesteps.to(self.device)
        ids = self.tokenizer(
            [f"a photo of a {self.placeholder}"] * len(latents), padding="max_length", truncation=True,
            max_length=self.text.config.max_position_embeddings, return_tensors="pt",
        ).input_ids.to(self.device)  # fmt: skip
        context = self.text(ids).last_hidden_state.to(self.unet.dtype)
        noisy = self.noising.add_noise(latents, noise, timesteps).to(self.unet.dtype)
        loss = F.mse_loss(self.unet(noisy, timesteps, context).sample.float(), noise)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            others = torch.arange(len(self.table), device=self.device) != self.row
            self.table[others] = self.before[others]
        return loss.item()
