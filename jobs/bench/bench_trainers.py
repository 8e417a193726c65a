"""A straightforward trainer in the manner of public scripts, as the baseline of bench.py, bench_gpu.py and full_size.py.

plain_over_ours_per_image  seconds a training picture of that trainer over those of ours, batch of 4, one concept
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WEIGHT_DECAY = 1e-2


class PlainEncoder:
    """A CLIP text encoder, float32, that learns a word: its whole embedding table is trainable.

    table: (vocabulary, D). before: the same, before training. row: of the new word.
    """

    def __init__(self, folder: Path, ending: str, device: str, placeholder: str, initializer: str) -> None:
        """ending: of its folders' names, "" or "_2", which has a projection."""
        made = CLIPTextModelWithProjection if ending else CLIPTextModel
        text: Any = made.from_pretrained(folder / f"text_encoder{ending}", dtype=torch.float32)
        self.text = text.to(device).requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{ending}")
        self.tokenizer.add_tokens(placeholder)
        start = self.tokenizer(initializer, add_special_tokens=False).input_ids[0]
        self.text.resize_token_embeddings(max(len(self.tokenizer), self.text.config.vocab_size), mean_resizing=False)
        self.table: Tensor = self.text.get_input_embeddings().weight.requires_grad_()
        self.row = self.tokenizer.convert_tokens_to_ids(placeholder)
        with torch.no_grad():
            self.table[self.row] = self.table[start]
        self.before = self.table.detach().clone()

    def read(self, prompts: list[str]) -> Any:
        """The encoder's output, with all hidden states."""
        ids = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.text.config.max_position_embeddings,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        return self.text(ids.to(self.table.device), output_hidden_states=True)

    @torch.no_grad()
    def put_back(self) -> None:
        """Every row but the new word's."""
        others = torch.arange(len(self.table), device=self.table.device) != self.row
        self.table[others] = self.before[others]


class PlainTrainer:
    """Textual Inversion of one concept as public scripts do it, on a Stable Diffusion 1.x or XL in diffusers' layout.

    Every step encodes its pictures again, runs the text encoders with their whole embedding tables trainable, lets AdamW
    update all of them, and puts back every row but the new word's.
    """

    def __init__(self, folder: Path, device: str, dtype: torch.dtype, placeholder: str, initializer: str) -> None:
        """dtype: of the frozen U-Net; the autoencoder and the text encoders, which are trained, are float32."""
        self.device = torch.device(device)
        self.unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(device)
        self.vae: Any = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)
        for part in (self.unet, self.vae):
            part.requires_grad_(False)
        endings = [ending for ending in ("", "_2") if (folder / f"text_encoder{ending}").is_dir()]
        self.encoders = [PlainEncoder(folder, ending, device, placeholder, initializer) for ending in endings]
        self.noising = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.placeholder = placeholder
        tables = [encoder.table for encoder in self.encoders]
        self.optimiser = torch.optim.AdamW(tables, lr=5e-3, weight_decay=WEIGHT_DECAY)
        self.generator = torch.Generator().manual_seed(0)

    def step(self, pixels: Tensor) -> float:
        """pixels: float32 (B, 3, R, R) in [-1, 1]. Returns the loss."""
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self.device)).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=self.generator).to(self.device)
        timesteps = torch.randint(self.noising.config.num_train_timesteps, (len(latents),), generator=self.generator)
        timesteps = timesteps.to(self.device)
        conditioning = self._conditioning(len(latents), float(pixels.shape[-1]))
        noisy = self.noising.add_noise(latents, noise, timesteps).to(self.unet.dtype)
        loss = F.mse_loss(self.unet(noisy, timesteps, **conditioning).sample.float(), noise)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        for encoder in self.encoders:
            encoder.put_back()
        return loss.item()

    def _conditioning(self, count: int, side: float) -> dict[str, Any]:
        said = [encoder.read([f"a photo of a {self.placeholder}"] * count) for encoder in self.encoders]
        dtype = self.unet.dtype
        if len(said) == 1:
            return {"encoder_hidden_states": said[0].last_hidden_state.to(dtype)}
        states = torch.cat([each.hidden_states[-2] for each in said], dim=-1)
        sizes = torch.tensor([[side, side, 0.0, 0.0, side, side]] * count, device=self.device)
        added = {"text_embeds": said[-1].text_embeds.to(dtype), "time_ids": sizes}
        return {"encoder_hidden_states": states.to(dtype), "added_cond_kwargs": added}
