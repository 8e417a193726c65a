"""A Stable Diffusion of random weights, as small as diffusers' folder layout allows: it draws noise, but all of it is real.

16 x 16 pixels, 8 x 8 latents, words of 32 numbers. What a test compares with it is diffusers' own code on the same weights.
"""

import math
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from pipeline.mini.recipe.tokenizer import CONTEXT, train_tokenizer

PIXELS, WIDTH = 16, 32
CAPTIONS = (
    "a photo of a cat", "a photo of a dog", "a painting of a cat in the style of a dog", "a photo of a fire truck",
    "a dark photo of the cat at night", "a photo of a small dog on the beach", "a good photo of a fire truck at night",
)  # fmt: skip


def save_tiny_model(folder: Path, prediction: Literal["epsilon", "v_prediction"]) -> Path:
    """Saves the model to `folder`, in diffusers' layout."""
    tokenizer = train_tokenizer(CAPTIONS, 80, folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=CONTEXT, projection_dim=WIDTH,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=PIXELS // 2, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH, norm_num_groups=8, attention_head_dim=2,
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, sample_size=PIXELS, norm_num_groups=4, layers_per_block=1,
            block_out_channels=(8, 16), mid_block_add_attention=False, scaling_factor=0.7,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    _make_words_matter(text_encoder, unet)
    # The configuration of Stable Diffusion's own scheduler folder.
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
        skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@torch.no_grad()
def _make_words_matter(text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """Fresh weights all but ignore the prompt. Larger ones do not, so that a lost word is seen in the picture."""
    for name, module in (*text_encoder.named_modules(), *unet.named_modules()):
        if isinstance(module, nn.Linear) and ("attn" in name or "mlp" in name):
            nn.init.normal_(
                module.weight, std=1.5 / math.sqrt(module.in_features), generator=torch.Generator().manual_seed(1)
            )


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The same weights in diffusers' own hands."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
