"""The parts of published models, from their configurations and without their weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

CONTEXT = 77  # of the CLIPs
Parts = Mapping[str, nn.Module]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model of a published size.

    pipeline: its class in diffusers. parts: makes them, by their folders; under torch.device("meta") they take no memory.
    tokenizers: folder -> kind of tokenizer (random_weights.py). scheduler: its configuration.
    """

    pipeline: str
    parts: Callable[[], Parts]
    tokenizers: Mapping[str, str]
    scheduler: Mapping[str, Any]


def architecture(name: str) -> Architecture:
    """One of ARCHITECTURES. Raises ValueError."""
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture {name!r} is not known; choose {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def parts_of(made: Architecture) -> dict[str, nn.Module]:
    """On the meta device."""
    with torch.device("meta"):
        return dict(made.parts())


def clip(width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=CONTEXT, projection_dim=width,
    )  # fmt: skip


def t5_xxl() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
                 vocab_size=32128)
    )  # fmt: skip


def gemma_2_2b() -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
                     num_attention_heads=8, num_key_value_heads=4, head_dim=256)
    )  # fmt: skip


def qwen3_4b() -> Qwen3Model:
    return Qwen3Model(
        Qwen3Config(vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
                    num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True)
    )  # fmt: skip


def sd3(layers: int, heads: int, **more: Any) -> SD3Transformer2DModel:
    """Of 1,024 pixels a side."""
    return SD3Transformer2DModel(
        sample_size=128, in_channels=16, num_layers=layers, attention_head_dim=64, num_attention_heads=heads,
        joint_attention_dim=4096, caption_projection_dim=64 * heads, pooled_projection_dim=2048, out_channels=16,
        pos_embed_max_size=192, **more,
    )  # fmt: skip


def pixart(*, sized: bool) -> PixArtTransformer2DModel:
    """Of 1,024 pixels a side. sized: it takes its pictures' size and shape as a condition, as PixArt-alpha does."""
    return PixArtTransformer2DModel(
        sample_size=128, caption_channels=4096, interpolation_scale=2, use_additional_conditions=sized
    )


def sana(*, large: bool) -> SanaTransformer2DModel:
    """Of 1,024 pixels a side, with 1.6 B weights or 0.6 B."""
    if large:
        return SanaTransformer2DModel()
    return SanaTransformer2DModel(
        num_attention_heads=36, num_layers=28, num_cross_attention_heads=16, cross_attention_head_dim=72,
        cross_attention_dim=1152,
    )  # fmt: skip


def _unet(context: int, sample_size: int = 64) -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=sample_size, cross_attention_dim=context, attention_head_dim=8)


def _xl_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def _vae(side: int, scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=side,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=scale,
    )  # fmt: skip


def _vae_16(scale: float, shift: float) -> AutoencoderKL:
    """Of Stable Diffusion 3, and of Flux.1, which Z-Image has as well."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, sample_size=1024,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=scale,
        shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def _dc_ae() -> AutoencoderDC:
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    return AutoencoderDC(
        encoder_block_types=blocks, decoder_block_types=blocks, downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.41407,
    )  # fmt: skip


def _sd_1_5() -> Parts:
    return {"text_encoder": CLIPTextModel(clip(768, 12)), "unet": _unet(768), "vae": _vae(512, 0.18215)}


def _sdxl() -> Parts:
    return {
        "text_encoder": CLIPTextModel(clip(768, 12)), "text_encoder_2": CLIPTextModelWithProjection(clip(1280, 32)),
        "unet": _xl_unet(), "vae": _vae(1024, 0.13025),
    }  # fmt: skip


def _ldm() -> Parts:
    return {"bert": LDMBertModel(LDMBertConfig()), "unet": _unet(1280, sample_size=32), "vqvae": _vae(256, 0.18215)}


def _sd3_medium() -> Parts:
    return {
        "text_encoder": CLIPTextModelWithProjection(clip(768, 12)),
        "text_encoder_2": CLIPTextModelWithProjection(clip(1280, 32)), "text_encoder_3": t5_xxl(),
        "transformer": sd3(24, 24), "vae": _vae_16(1.5305, 0.0609),
    }  # fmt: skip


def _pixart_alpha() -> Parts:
    return {"text_encoder": t5_xxl(), "transformer": pixart(sized=True), "vae": _vae(512, 0.18215)}


def _pixart_sigma() -> Parts:
    return {"text_encoder": t5_xxl(), "transformer": pixart(sized=False), "vae": _vae(1024, 0.13025)}


def _sana_small() -> Parts:
    return {"text_encoder": gemma_2_2b(), "transformer": sana(large=False), "vae": _dc_ae()}


def _sana_large() -> Parts:
    return {"text_encoder": gemma_2_2b(), "transformer": sana(large=True), "vae": _dc_ae()}


def _z_image() -> Parts:
    return {"text_encoder": qwen3_4b(), "transformer": ZImageTransformer2DModel(), "vae": _vae_16(0.3611, 0.1159)}


def _betas(first: float, last: float, schedule: str = "scaled_linear") -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": schedule,
        "prediction_type": "epsilon", "beta_start": first, "beta_end": last,
    }  # fmt: skip


_FLOW = {
    "_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "use_flow_sigmas": True,
    "prediction_type": "flow_prediction", "flow_shift": 3.0,
}  # fmt: skip
_SHIFTED = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
_T5, _GEMMA = {"tokenizer": "t5"}, {"tokenizer": "gemma"}
ARCHITECTURES = {
    "sd-1.5": Architecture("StableDiffusionPipeline", _sd_1_5, {"tokenizer": "clip"}, _betas(0.00085, 0.012)),
    "sdxl": Architecture(
        "StableDiffusionXLPipeline", _sdxl, {"tokenizer": "clip", "tokenizer_2": "clip"}, _betas(0.00085, 0.012)
    ),
    # The paper's own.
    "ldm": Architecture("LDMTextToImagePipeline", _ldm, {"tokenizer": "bert"}, _betas(0.0015, 0.0195)),
    "pixart-alpha": Architecture("PixArtAlphaPipeline", _pixart_alpha, _T5, _betas(0.0001, 0.02, "linear")),
    "pixart-sigma": Architecture("PixArtSigmaPipeline", _pixart_sigma, _T5, _betas(0.0001, 0.02, "linear")),
    "sana-0.6b": Architecture("SanaPipeline", _sana_small, _GEMMA, _FLOW),
    "sana-1.6b": Architecture("SanaPipeline", _sana_large, _GEMMA, _FLOW),
    "sd3-medium": Architecture(
        "StableDiffusion3Pipeline",
        _sd3_medium,
        {"tokenizer": "clip", "tokenizer_2": "clip", "tokenizer_3": "t5"},
        _SHIFTED,
    ),
    "z-image": Architecture("ZImagePipeline", _z_image, {"tokenizer": "qwen"}, _SHIFTED),
}
