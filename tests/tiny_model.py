"""A model of each family with random weights, as small as diffusers' folder layout allows: it draws noise, but all of it is real.

16 x 16 pixels, 8 x 8 latents, words of 32 numbers. What a test compares with it is diffusers' own code on the same weights.
"""

import math
import string
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LDMTextToImagePipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from torch import nn
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from jobs.mini.recipe.tokenizer import CONTEXT, train_tokenizer

PIXELS, WIDTH = 16, 32
SECOND_WIDTH, PROJECTED, TIME_WIDTH = 48, 40, 8  # of Stable Diffusion XL
LDM_CONTEXT = 77  # diffusers' pipeline takes no other
CAPTIONS = (
    "a photo of a cat", "a photo of a dog", "a painting of a cat in the style of a dog", "a photo of a fire truck",
    "a dark photo of the cat at night", "a photo of a small dog on the beach", "a good photo of a fire truck at night",
)  # fmt: skip
# As in the scheduler folders of Stable Diffusion and Stable Diffusion XL.
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_tiny_model(folder: Path, prediction: Literal["epsilon", "v_prediction"]) -> Path:
    """Saves a Stable Diffusion to `folder`, in diffusers' layout."""
    tokenizer = train_tokenizer(CAPTIONS, 80, folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(tiny_clip(tokenizer, WIDTH))
        unet, vae = _unet(cross_attention_dim=WIDTH), tiny_kl(scaling_factor=0.7)
    make_words_matter(text_encoder, unet)
    scheduler = PNDMScheduler(**BETAS, prediction_type=prediction, skip_prk_steps=True, set_alpha_to_one=False)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_tiny_xl(folder: Path) -> Path:
    """Saves a Stable Diffusion XL. The second tokenizer pads with "!", as the published one does."""
    tokenizer = train_tokenizer(CAPTIONS, 80, folder / "tokenizer")
    padded_otherwise = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = CLIPTextModel(tiny_clip(tokenizer, WIDTH))
        second = CLIPTextModelWithProjection(tiny_clip(tokenizer, SECOND_WIDTH))
        unet = _unet(
            cross_attention_dim=WIDTH + SECOND_WIDTH, addition_embed_type="text_time", use_linear_projection=True,
            addition_time_embed_dim=TIME_WIDTH, projection_class_embeddings_input_dim=6 * TIME_WIDTH + PROJECTED,
        )  # fmt: skip
        vae = tiny_kl(scaling_factor=0.6)
    make_words_matter(first, second, unet)
    StableDiffusionXLPipeline(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=tokenizer, tokenizer_2=padded_otherwise, unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_tiny_ldm(folder: Path, first_stage: Literal["vq", "kl"]) -> Path:
    """Saves a latent diffusion model of the paper's family."""
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    letters = [f"{before}{letter}" for letter in string.printable[:95].strip() for before in ("", "##")]
    entries = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters])
    tokenizer = BertTokenizer(vocab={entry: index for index, entry in enumerate(entries)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bert = LDMBertModel(
            LDMBertConfig(
                vocab_size=len(entries), max_position_embeddings=LDM_CONTEXT, encoder_layers=2, encoder_ffn_dim=64,
                encoder_attention_heads=2, head_dim=8, d_model=WIDTH,
            )
        )  # fmt: skip
        unet = _unet(cross_attention_dim=WIDTH)
        vqvae = tiny_kl(scaling_factor=0.5) if first_stage == "kl" else _vq(scaling_factor=0.5)
    make_words_matter(bert, unet)
    LDMTextToImagePipeline(
        vqvae=vqvae, bert=bert, tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False),
    ).save_pretrained(folder)  # fmt: skip
    return folder


AUTOENCODER: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": PIXELS, "norm_num_groups": 4,
    "layers_per_block": 1, "block_out_channels": (8, 16), "mid_block_add_attention": False,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def tiny_kl(scaling_factor: float, shift_factor: float | None = None) -> AutoencoderKL:
    return AutoencoderKL(**AUTOENCODER, scaling_factor=scaling_factor, shift_factor=shift_factor)


def _vq(scaling_factor: float) -> VQModel:
    made = VQModel(**AUTOENCODER, scaling_factor=scaling_factor)
    nn.init.normal_(
        made.quantize.embedding.weight
    )  # fresh codes are all but one point: every picture would be the same
    return made


def tiny_clip(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, projection_dim=PROJECTED, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _unet(**told: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=PIXELS // 2, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8, attention_head_dim=2, **told,
    )  # fmt: skip


@torch.no_grad()
def make_words_matter(*parts: nn.Module) -> None:
    """Fresh weights all but ignore the prompt. Larger ones do not, so that a lost word is seen in the picture."""
    heard = ("attn", "mlp", "fc", "text_projection", "add_embedding")
    for name, module in (each for part in parts for each in part.named_modules()):
        if isinstance(module, nn.Linear) and any(part in name for part in heard):
            nn.init.normal_(
                module.weight, std=1.5 / math.sqrt(module.in_features), generator=torch.Generator().manual_seed(1)
            )


def load_pipeline(folder: Path) -> Any:
    """The same weights in diffusers' own hands."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
