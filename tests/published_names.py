"""The names and shapes of the tensors in published single files, from the structure of the original code.

UNetModel of ldm/modules/diffusionmodules/openaimodel.py, Encoder and Decoder of model.py beside it, with the settings of
configs/stable-diffusion/v1-inference.yaml (CompVis/stable-diffusion), v2-inference.yaml (Stability-AI/stablediffusion) and
configs/inference/sd_xl_base.yaml (Stability-AI/generative-models); transformers' CLIPTextModel; open_clip's TextTransformer. They
are, name by name and shape by shape, those that components/*.txt of arenasys/stable-diffusion-webui-model-toolkit lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]
WORDS, POSITIONS = 49_408, 77


@dataclass(frozen=True, slots=True)
class UNetSettings:
    """depths: transformer layers at each resolution, 0 for none. middle: those in the middle. linear: use_linear_in_transformer.

    added: adm_in_channels.
    """

    multiples: Sequence[int]
    depths: Sequence[int]
    middle: int
    context: int
    linear: bool = False
    added: int = 0
    channels: int = 320


def both(name: str, *shape: int) -> Shapes:
    """A layer with a bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def resnet(at: str, given: int, made: int, time: int) -> Shapes:
    found = both(f"{at}.in_layers.0", given) | both(f"{at}.in_layers.2", made, given, 3, 3)
    found |= both(f"{at}.emb_layers.1", made, time) | both(f"{at}.out_layers.0", made)
    found |= both(f"{at}.out_layers.3", made, made, 3, 3)
    return found | (both(f"{at}.skip_connection", made, given, 1, 1) if given != made else {})


def transformer(at: str, width: int, depth: int, settings: UNetSettings) -> Shapes:
    pixel = () if settings.linear else (1, 1)
    found = both(f"{at}.norm", width)
    found |= both(f"{at}.proj_in", width, width, *pixel) | both(f"{at}.proj_out", width, width, *pixel)
    for layer in range(depth):
        block = f"{at}.transformer_blocks.{layer}"
        for attention, context in (("attn1", width), ("attn2", settings.context)):
            found[f"{block}.{attention}.to_q.weight"] = (width, width)
            found[f"{block}.{attention}.to_k.weight"] = found[f"{block}.{attention}.to_v.weight"] = (width, context)
            found |= both(f"{block}.{attention}.to_out.0", width, width)
        for norm in ("norm1", "norm2", "norm3"):
            found |= both(f"{block}.{norm}", width)
        found |= both(f"{block}.ff.net.0.proj", 8 * width, width) | both(f"{block}.ff.net.2", width, 4 * width)
    return found


def unet(settings: UNetSettings) -> Shapes:
    channels, time = settings.channels, 4 * settings.channels
    found = both("time_embed.0", time, channels) | both("time_embed.2", time, time)
    if settings.added:
        found |= both("label_emb.0.0", time, settings.added) | both("label_emb.0.2", time, time)
    found |= both("input_blocks.0.0", channels, 4, 3, 3)
    skips, width, number = [channels], channels, 0
    for level, multiple in enumerate(settings.multiples):
        for _ in range(2):
            number += 1
            found |= resnet(f"input_blocks.{number}.0", width, multiple * channels, time)
            width = multiple * channels
            if settings.depths[level]:
                found |= transformer(f"input_blocks.{number}.1", width, settings.depths[level], settings)
            skips.append(width)
        if level != len(settings.multiples) - 1:
            number += 1
            found |= both(f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
    found |= resnet("middle_block.0", width, width, time) | resnet("middle_block.2", width, width, time)
    found |= transformer("middle_block.1", width, settings.middle, settings)
    number = 0
    for level, multiple in reversed(list(enumerate(settings.multiples))):
        for layer in range(3):
            at = f"output_blocks.{number}"
            found |= resnet(f"{at}.0", width + skips.pop(), multiple * channels, time)
            width = multiple * channels
            if settings.depths[level]:
                found |= transformer(f"{at}.1", width, settings.depths[level], settings)
            if level and layer == 2:
                found |= both(f"{at}.{2 if settings.depths[level] else 1}.conv", width, width, 3, 3)
            number += 1
    found |= both("out.0", channels) | both("out.2", 4, channels, 3, 3)
    return named("model.diffusion_model.", found)


def vae() -> Shapes:
    """ch 128, ch_mult 1 2 4 4, num_res_blocks 2, z_channels 4, double_z: the same in all versions."""
    widths, found = (128, 256, 512, 512), Shapes()
    found |= both("quant_conv", 8, 8, 1, 1) | both("post_quant_conv", 4, 4, 1, 1)
    found |= both("encoder.conv_in", 128, 3, 3, 3) | both("decoder.conv_in", 512, 4, 3, 3)
    found |= both("encoder.norm_out", 512) | both("decoder.norm_out", 128)
    found |= both("encoder.conv_out", 8, 512, 3, 3) | both("decoder.conv_out", 3, 128, 3, 3)
    for side in ("encoder", "decoder"):
        found |= _vae_block(f"{side}.mid.block_1", 512, 512) | _vae_block(f"{side}.mid.block_2", 512, 512)
        found |= both(f"{side}.mid.attn_1.norm", 512)
        for layer in ("q", "k", "v", "proj_out"):
            found |= both(f"{side}.mid.attn_1.{layer}", 512, 512, 1, 1)
    width = 128
    for level, made in enumerate(widths):
        for block in range(2):
            found |= _vae_block(f"encoder.down.{level}.block.{block}", width, made)
            width = made
        if level < 3:
            found |= both(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    for level, made in reversed(list(enumerate(widths))):
        for block in range(3):
            found |= _vae_block(f"decoder.up.{level}.block.{block}", width, made)
            width = made
        if level:
            found |= both(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    return named("first_stage_model.", found)


def _vae_block(at: str, given: int, made: int) -> Shapes:
    found = both(f"{at}.norm1", given) | both(f"{at}.conv1", made, given, 3, 3)
    found |= both(f"{at}.norm2", made) | both(f"{at}.conv2", made, made, 3, 3)
    return found | (both(f"{at}.nin_shortcut", made, given, 1, 1) if given != made else {})


def clip_l(prefix: str) -> Shapes:
    found: Shapes = {
        "embeddings.token_embedding.weight": (WORDS, 768), "embeddings.position_embedding.weight": (POSITIONS, 768),
        "embeddings.position_ids": (1, POSITIONS),
    }  # fmt: skip
    found |= both("final_layer_norm", 768)
    for layer in range(12):
        at = f"encoder.layers.{layer}"
        found |= both(f"{at}.layer_norm1", 768) | both(f"{at}.layer_norm2", 768)
        found |= both(f"{at}.mlp.fc1", 3072, 768) | both(f"{at}.mlp.fc2", 768, 3072)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= both(f"{at}.self_attn.{part}", 768, 768)
    return named(f"{prefix}text_model.", found)


def open_clip_text(prefix: str, width: int, layers: int) -> Shapes:
    found: Shapes = {
        "token_embedding.weight": (WORDS, width), "positional_embedding": (POSITIONS, width), "logit_scale": (),
        "text_projection": (width, width),
    }  # fmt: skip
    found |= both("ln_final", width)
    for layer in range(layers):
        at = f"transformer.resblocks.{layer}"
        found |= both(f"{at}.ln_1", width) | both(f"{at}.ln_2", width)
        found |= both(f"{at}.mlp.c_fc", 4 * width, width) | both(f"{at}.mlp.c_proj", width, 4 * width)
        found |= both(f"{at}.attn.out_proj", width, width)
        found |= {f"{at}.attn.in_proj_weight": (3 * width, width), f"{at}.attn.in_proj_bias": (3 * width,)}
    return named(prefix, found)


def named(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


MULTIPLES, DEPTHS = (1, 2, 4, 4), (1, 1, 1, 0)


def published() -> Iterator[tuple[str, Shapes]]:
    """(folder of configs/, the tensors of a file)."""
    yield "sd-1", unet(UNetSettings(MULTIPLES, DEPTHS, 1, 768)) | vae() | clip_l("cond_stage_model.transformer.")
    second = unet(UNetSettings(MULTIPLES, DEPTHS, 1, 1024, linear=True)) | vae()
    second |= open_clip_text("cond_stage_model.model.", 1024, 24)
    yield "sd-2", second
    yield "sd-2-v", second
    xl = UNetSettings((1, 2, 4), (0, 2, 10), 10, context=2048, linear=True, added=2816)
    text = clip_l("conditioner.embedders.0.transformer.") | open_clip_text("conditioner.embedders.1.model.", 1280, 32)
    yield "sd-xl", unet(xl) | vae() | text
