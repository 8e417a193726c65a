"""Stage 3: the U-Net and the text encoder, trained jointly on cached latents with the loss of latent diffusion."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.mini.recipe.clip import tokenise
from pipeline.mini.recipe.loop import Schedule, train
from pipeline.mini.recipe.tokenizer import CONTEXT

BATCH = 48
UNCONDITIONAL = 0.1  # share of empty captions: classifier-free guidance needs them
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
         "prediction_type": "epsilon", "clip_sample": False}
# What the shipped scheduler folder says, as Stable Diffusion 1.x does.
SAMPLING = {**{key: value for key, value in NOISE.items() if key != "clip_sample"}, "skip_prk_steps": True, "steps_offset": 1,
            "set_alpha_to_one": False}


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=CONTEXT, projection_dim=128, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, norm_num_groups=8,
        attention_head_dim=4,  # as in Stable Diffusion's own configuration, this is the number of heads
    )


def train_unet(latents: Tensor, captions: list[str], tokenizer: CLIPTokenizer, schedule: Schedule,
               checkpoint: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """latents: float16 (N, 4, 16, 16), scaled."""
    torch.manual_seed(0)
    unet, text_encoder = new_unet(), new_text_encoder(tokenizer)
    noising = DDPMScheduler(**NOISE)
    tokens, empty = tokenise(tokenizer, captions), tokenise(tokenizer, [""])

    def loss_at(step: int) -> Tensor:
        chance = torch.Generator().manual_seed(step)
        rows = torch.randint(len(latents), (BATCH,), generator=chance)
        bare = torch.rand(BATCH, 1, generator=chance) < UNCONDITIONAL
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=chance)
        timesteps = torch.randint(noising.config.num_train_timesteps, (BATCH,), generator=chance)
        context = text_encoder(torch.where(bare, empty, tokens[rows])).last_hidden_state
        predicted = unet(noising.add_noise(clean, noise, timesteps), timesteps, context).sample
        return (predicted.float() - noise).square().mean()

    train(nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}), loss_at, schedule, checkpoint, average=0.99)
    return unet.eval().requires_grad_(False), text_encoder.eval().requires_grad_(False)
