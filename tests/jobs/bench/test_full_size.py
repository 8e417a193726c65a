"""The architectures of jobs/bench/full_size.py are those that are published, counted without taking any memory; and tiny ones of
the same kinds are written, loaded, trained for a step and left as they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from safetensors.torch import load_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from jobs.bench.full_size import main, measure
from jobs.bench.published import random_weights
from jobs.bench.published.architectures import ARCHITECTURES, Architecture, Parts, architecture, parts_of
from jobs.bench.published.random_weights import save
from pipeline.models.load import load_backbone
from pipeline.settings import InversionSettings, ModelSettings

# Parameters, as the published weights have them.
KL, KL_16 = 83_653_863, 83_819_683  # of 4 and of 16 channels
T5 = 4_762_310_656
PUBLISHED = {
    "sd-1.5": {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": KL},
    "sdxl": {"text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "unet": 2_567_463_684, "vae": KL},
    "pixart-sigma": {"text_encoder": T5, "transformer": 610_856_096, "vae": KL},
    "sana-1.6b": {"text_encoder": 2_614_341_888, "transformer": 1_604_462_752, "vae": 312_250_275},
    "sd3-medium": {
        "text_encoder": 123_650_304, "text_encoder_2": 694_659_840, "text_encoder_3": T5, "transformer": 2_028_328_000,
        "vae": KL_16,
    },
    "z-image": {"text_encoder": 4_022_468_096, "transformer": 6_154_908_736, "vae": KL_16},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_part_is_of_the_published_size(name: str) -> None:
    """Catches memory and times reported for a model that nobody has."""
    parts = parts_of(architecture(name))
    assert {part: sum(value.numel() for value in module.parameters()) for part, module in parts.items()} == PUBLISHED[
        name
    ]
    assert all(value.is_meta for module in parts.values() for value in module.parameters())


def test_the_papers_model_has_words_of_1280_numbers() -> None:
    parts = parts_of(architecture("ldm"))
    assert parts["bert"].get_input_embeddings().embedding_dim == 1280  # type: ignore[operator]
    assert 850e6 < sum(value.numel() for value in parts["unet"].parameters()) < 900e6


def test_pixart_alpha_takes_sizes_and_the_small_sana_has_0_6_billion_weights() -> None:
    alpha, sigma, small = (
        sum(value.numel() for value in parts_of(architecture(name))["transformer"].parameters())
        for name in ("pixart-alpha", "pixart-sigma", "sana-0.6b")
    )
    assert alpha > sigma
    assert 0.58e9 < small < 0.62e9


WIDTH, HEADS = 32, {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4}


def _tiny_pixart() -> Parts:
    config = T5Config(
        d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", vocab_size=60
    )
    denoiser: Any = PixArtTransformer2DModel(
        sample_size=8, caption_channels=WIDTH, cross_attention_dim=32, interpolation_scale=2, **HEADS
    )
    vae = AutoencoderKL(block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    return {"text_encoder": T5EncoderModel(config), "transformer": denoiser, "vae": vae}


def _tiny_sana() -> Parts:
    config = Gemma2Config(
        vocab_size=60, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
    )  # fmt: skip
    denoiser: Any = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32,
        caption_channels=WIDTH, sample_size=8, **HEADS,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16), attention_head_dim=8,
        encoder_block_types=("ResBlock", "EfficientViTBlock"), decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), downsample_block_type="conv", upsample_block_type="interpolate",
    )  # fmt: skip
    return {"text_encoder": Gemma2Model(config), "transformer": denoiser, "vae": vae}


def _kl_of_flows() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip


def _tiny_sd3() -> Parts:
    t5 = T5Config(d_model=64, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", vocab_size=60)
    clip = CLIPTextConfig(
        vocab_size=49408, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=16,
    )  # fmt: skip
    denoiser: Any = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, pos_embed_max_size=16, joint_attention_dim=64,
        caption_projection_dim=32, pooled_projection_dim=32, **HEADS,
    )  # fmt: skip
    return {
        "text_encoder": CLIPTextModelWithProjection(clip), "text_encoder_2": CLIPTextModelWithProjection(clip),
        "text_encoder_3": T5EncoderModel(t5), "transformer": denoiser, "vae": _kl_of_flows(),
    }  # fmt: skip


def _tiny_z_image() -> Parts:
    config = Qwen3Config(
        vocab_size=300, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    denoiser: Any = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=4, cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    return {"text_encoder": Qwen3Model(config), "transformer": denoiser, "vae": _kl_of_flows()}


def tiny(published: str, parts: Callable[[], Parts]) -> Architecture:
    like = ARCHITECTURES[published]
    return Architecture(like.pipeline, parts, like.tokenizers, like.scheduler)


@pytest.mark.parametrize(
    "made",
    [
        tiny("pixart-alpha", _tiny_pixart),
        tiny("pixart-sigma", _tiny_pixart),
        tiny("sana-0.6b", _tiny_sana),
        tiny("sd3-medium", _tiny_sd3),
        tiny("z-image", _tiny_z_image),
    ],
    ids=["pixart-alpha", "pixart-sigma", "sana", "sd3", "z-image"],
)
def test_a_step_of_a_model_with_random_weights_is_measured(made: Architecture, tmp_path: Path) -> None:
    """Catches an architecture that is written and does not load, a word without a gradient, and weights that move."""
    save(made, tmp_path / "model", torch.bfloat16)
    backbone = load_backbone(str(tmp_path / "model"), settings=ModelSettings("bfloat16"))
    assert backbone.checkpoint_gradients(on=True)
    figures = measure(backbone, InversionSettings(steps=3, batch_size=2, early_stop="off", flip=False))
    assert len(figures["step_seconds"]) == 2
    assert figures["text_encoders_seconds"] >= 0
    assert figures["word_changed"]
    assert figures["weights_unchanged"]


def test_weights_are_written_in_shards_of_numbers_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a writer that holds the whole model twice, layers that are copies of each other, and a table that is not tied."""
    monkeypatch.setattr(random_weights, "SHARD", "4KB")
    monkeypatch.setattr(random_weights, "DRAWN", 997)
    made = tiny("pixart-sigma", _tiny_pixart)
    save(made, tmp_path / "model", torch.bfloat16)
    files = sorted((tmp_path / "model/text_encoder").glob("*.safetensors"))
    assert len(files) > 4
    weights = {name: value for file in files for name, value in load_file(file).items()}
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert sum("embed_tokens" in name or name == "shared.weight" for name in weights) == 1
    kinds = [value for name, value in weights.items() if name.endswith("SelfAttention.q.weight")]
    assert len(kinds) == 2
    assert not torch.equal(*kinds)
    assert 0.015 < torch.cat([value.float().flatten() for value in kinds]).std() < 0.025
    assert load_backbone(str(tmp_path / "model")).encoders == {"text_encoder": WIDTH}


def test_the_command_prints_one_object_and_leaves_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an option that nothing obeys, and gigabytes left on a disk."""
    monkeypatch.setitem(ARCHITECTURES, "sana-0.6b", tiny("sana-0.6b", _tiny_sana))
    told = ("--steps", "1", "--resolution", "32", "--checkpoint-gradients", "--folder", str(tmp_path / "weights"))
    assert main(["sana-0.6b", *told]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["architecture"], figures["dtype"], figures["checkpointed"]) == ("sana-0.6b", "bfloat16", True)
    assert (figures["resolution"], len(figures["step_seconds"])) == (32, 1)
    assert not list(tmp_path.iterdir())


def test_a_resolution_that_no_model_takes_is_refused_before_weights_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sd-1.5", "--resolution", "100", "--folder", str(tmp_path / "weights")])
    assert "resolution is 100; it must be a multiple of 8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
