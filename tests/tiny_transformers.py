"""A tiny model with random weights of each family whose denoiser is a transformer, built of the libraries' own classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from jobs.mini.recipe.tokenizer import train_tokenizer
from pipeline.models.flow.qwen_image import AFTER, BEFORE
from tests.tiny_model import CAPTIONS, PIXELS, PROJECTED, SECOND_WIDTH, WIDTH, make_words_matter, tiny_clip, tiny_kl

LETTERS = [chr(code) for code in range(33, 127)]
# As Qwen3's does where thinking is on, which is what Z-Image was trained with.
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHIFTED: dict[str, Any] = {"shift": 3.0}
BY_SIZE: dict[str, Any] = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
LAYERS: dict[str, Any] = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4}


def save_tiny(family: str, folder: Path) -> Path:
    """Saves a model of the family to `folder`, in diffusers' layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = FAMILIES[family](folder)
    make_words_matter(*(part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)))
    pipeline.save_pretrained(folder)
    return folder


def _t5(width: int = WIDTH) -> tuple[T5EncoderModel, T5Tokenizer]:
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    pieces = ["▁", *(f"▁{word}" for word in words), *LETTERS]
    scored = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")] + [(piece, -1.0 - len(piece)) for piece in pieces]
    tokenizer = T5Tokenizer(vocab=scored, extra_ids=0)
    config = T5Config(vocab_size=len(scored), d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return T5EncoderModel(config), tokenizer


def _bytes_pairs() -> Qwen2Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=alphabet)
    learner.train_from_iterator([BEFORE, AFTER, *CAPTIONS], trainer)
    vocabulary = learner.get_vocab()
    merges: Any = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    vocabulary |= {"<|endoftext|>": len(vocabulary)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def _sd3(folder: Path) -> StableDiffusion3Pipeline:
    tokenizer = train_tokenizer(CAPTIONS, 80, folder / "tokenizer")
    t5, t5_tokenizer = _t5(WIDTH + SECOND_WIDTH)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=PIXELS // 2, patch_size=2, in_channels=4, out_channels=4, pos_embed_max_size=16, **LAYERS,
            joint_attention_dim=WIDTH + SECOND_WIDTH, caption_projection_dim=32, pooled_projection_dim=2 * PROJECTED,
        ),
        text_encoder=CLIPTextModelWithProjection(tiny_clip(tokenizer, WIDTH)), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(tiny_clip(tokenizer, SECOND_WIDTH)), tokenizer_2=tokenizer,
        text_encoder_3=t5, tokenizer_3=t5_tokenizer, vae=tiny_kl(scaling_factor=0.6, shift_factor=0.1),
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED),
    )  # fmt: skip


ROPE: dict[str, Any] = {"axes_dims_rope": (4, 2, 2)}  # a head's 8 numbers


def _flux(folder: Path) -> FluxPipeline:
    tokenizer = train_tokenizer(CAPTIONS, 80, folder / "tokenizer")
    t5, t5_tokenizer = _t5()
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16, num_single_layers=1, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
            guidance_embeds=True, **ROPE, **LAYERS,
        ),
        text_encoder=CLIPTextModel(tiny_clip(tokenizer, WIDTH)), tokenizer=tokenizer,
        text_encoder_2=t5, tokenizer_2=t5_tokenizer, vae=tiny_kl(scaling_factor=0.6, shift_factor=0.1),
        scheduler=FlowMatchEulerDiscreteScheduler(**BY_SIZE),
    )  # fmt: skip


def _chroma(folder: Path) -> ChromaPipeline:
    t5, tokenizer = _t5()
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            in_channels=16, num_single_layers=1, joint_attention_dim=WIDTH, approximator_num_channels=16,
            approximator_hidden_dim=32, approximator_layers=1, **ROPE, **LAYERS,
        ),
        text_encoder=t5, tokenizer=tokenizer, vae=tiny_kl(scaling_factor=0.6, shift_factor=0.1),
        scheduler=FlowMatchEulerDiscreteScheduler(**BY_SIZE),
    )  # fmt: skip


def _pixart(folder: Path) -> PixArtSigmaPipeline:
    t5, tokenizer = _t5()
    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            sample_size=PIXELS // 2, patch_size=2, in_channels=4, out_channels=8, cross_attention_dim=32,
            caption_channels=WIDTH, **LAYERS,
        ),
        text_encoder=t5, tokenizer=tokenizer, vae=tiny_kl(scaling_factor=0.6),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )  # fmt: skip


def _sana(folder: Path) -> SanaPipeline:
    entries = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    tokenizer = GemmaTokenizer(vocab={entry: index for index, entry in enumerate(entries)}, add_bos_token=True)
    config = Gemma2Config(
        vocab_size=len(entries), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16), attention_head_dim=8,
        encoder_block_types="ResBlock", decoder_block_types="ResBlock", encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4, downsample_block_type="Conv", upsample_block_type="interpolate",
    )  # fmt: skip
    return SanaPipeline(
        transformer=SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_cross_attention_heads=4, cross_attention_head_dim=8,
            cross_attention_dim=32, caption_channels=WIDTH, sample_size=PIXELS // 2, **LAYERS,
        ),
        text_encoder=Gemma2Model(config), tokenizer=tokenizer, vae=vae,
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, beta_schedule="linear"
        ),
    )  # fmt: skip


TEXT: dict[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def _z_image(folder: Path) -> ZImagePipeline:
    tokenizer = _bytes_pairs()
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=4, cap_feat_dim=WIDTH,
            axes_dims=[4, 2, 2], axes_lens=[1024, 64, 64],
        ),
        text_encoder=Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), head_dim=8, **TEXT)), tokenizer=tokenizer,
        vae=tiny_kl(scaling_factor=0.6, shift_factor=0.1), scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED),
    )  # fmt: skip


def _qwen_image(folder: Path) -> QwenImagePipeline:
    tokenizer = _bytes_pairs()
    rotary = {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config={"vocab_size": len(tokenizer), "rope_scaling": rotary, **TEXT},
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": WIDTH},
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], attn_scales=[],
        latents_mean=[0.1, -0.1, 0.2, 0.0], latents_std=[1.5, 2.0, 1.0, 0.7],
    )  # fmt: skip
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, joint_attention_dim=WIDTH, **ROPE, **LAYERS
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config), tokenizer=tokenizer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(**BY_SIZE),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "sd3": _sd3, "flux": _flux, "chroma": _chroma, "pixart": _pixart, "sana": _sana, "z_image": _z_image,
    "qwen_image": _qwen_image,
}  # fmt: skip
