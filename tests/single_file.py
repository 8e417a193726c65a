"""Single files as the original code of Stable Diffusion names their tensors, from the parts of a model in diffusers' layout.

The names are those of ldm/modules/diffusionmodules (openaimodel.py: UNetModel; model.py: Encoder, Decoder) of CompVis's and
Stability AI's repositories, of transformers' CLIPTextModel, and of open_clip's transformer.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
TOPS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip


def original_unet(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    places, each = dict(TOPS), config.layers_per_block + 1
    for block in range(len(config.block_out_channels)):
        for layer in range(each):
            places[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{block * each + layer + 1}.0"
            places[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{block * each + layer + 1}.1"
            places[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{block * each + layer}.0"
            places[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{block * each + layer}.1"
        places[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{(block + 1) * each}.0.op"
        has_attention = config.up_block_types[block].startswith("CrossAttn")
        places[f"up_blocks.{block}.upsamplers.0.conv"] = (
            f"output_blocks.{block * each + each - 1}.{2 if has_attention else 1}.conv"
        )
    found = {}
    for name, value in tensors.items():
        place = max((place for place in places if name.startswith(f"{place}.")), key=len)
        rest = name.removeprefix(place)
        if "resnets" in place:
            layer_name, _, last = rest[1:].partition(".")
            rest = f".{RESNET[layer_name]}.{last}"
        found[f"{UNET}{places[place]}{rest}"] = value
    return found


def original_vae(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    last, found = len(config.block_out_channels) - 1, {}
    for name, value in tensors.items():
        renamed = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        renamed = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", renamed)
        renamed = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", renamed)
        renamed = re.sub(r"up_blocks\.(\d+)\.resnets", lambda at: f"up.{last - int(at[1])}.block", renamed)
        renamed = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda at: f"up.{last - int(at[1])}.upsample", renamed)
        renamed = re.sub(r"mid_block\.resnets\.(\d)", lambda at: f"mid.block_{int(at[1]) + 1}", renamed)
        if "mid_block.attentions.0." in renamed:
            renamed = renamed.replace("mid_block.attentions.0.", "mid.attn_1.").replace("to_out.0", "proj_out")
            renamed = renamed.replace("group_norm", "norm").replace(".to_", ".")
            value = value[:, :, None, None] if value.ndim == 2 else value  # it was a convolution of one pixel
        found[VAE + renamed] = value
    return found


def original_clip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {f"{prefix}text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}
    table = found[f"{prefix}text_model.embeddings.position_embedding.weight"]
    return found | {f"{prefix}text_model.embeddings.position_ids": torch.arange(len(table), device=table.device)[None]}


def original_open_clip(tensors: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, Tensor]:
    plain = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    found: dict[str, Tensor] = {"logit_scale": torch.zeros((), device=plain["final_layer_norm.bias"].device)}
    for name, value in plain.items():
        if ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        renamed = name.replace("encoder.layers.", "transformer.resblocks.").replace("final_layer_norm", "ln_final")
        renamed = renamed.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2").replace("self_attn", "attn")
        renamed = renamed.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        renamed = renamed.replace("embeddings.token_embedding", "token_embedding")
        renamed = renamed.replace("embeddings.position_embedding.weight", "positional_embedding")
        if ".q_proj." in name:
            all_three = [plain[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            value, renamed = torch.cat(all_three), renamed.replace(".q_proj.", ".in_proj_")
        if name == "text_projection.weight":
            value, renamed = value.T.contiguous(), "text_projection"
        found[renamed] = value
    found.setdefault("text_projection", torch.zeros((width, width), device=found["ln_final.bias"].device))
    return {prefix + name: value for name, value in found.items()}


def original(parts: Mapping[str, Any], *, second: bool = False) -> dict[str, Tensor]:
    """parts: of a pipeline, by name. second: of Stable Diffusion 2.x."""
    weights = {name: part.state_dict() for name, part in parts.items()}
    found = original_unet(weights["unet"], parts["unet"].config) | original_vae(weights["vae"], parts["vae"].config)
    if "text_encoder_2" in parts:
        found |= original_clip(weights["text_encoder"], "conditioner.embedders.0.transformer.")
        width = parts["text_encoder_2"].config.hidden_size
        return found | original_open_clip(weights["text_encoder_2"], "conditioner.embedders.1.model.", width)
    if second:
        width = parts["text_encoder"].config.hidden_size
        return found | original_open_clip(weights["text_encoder"], "cond_stage_model.model.", width)
    return found | original_clip(weights["text_encoder"], "cond_stage_model.transformer.")


def save_single_file(pipeline: Any, file: Path, *, second: bool = False, **more: Tensor) -> Path:
    """more: further tensors."""
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    parts = {name: getattr(pipeline, name) for name in names if getattr(pipeline, name, None) is not None}
    tensors = original(parts, second=second) | more
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, file)
    return file
