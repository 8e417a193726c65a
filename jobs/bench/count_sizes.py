"""Counts a training step of each family at its published size: work and memory, on the meta device, where nothing is computed.

  python -m jobs.bench.count_sizes
  python -m jobs.bench.count_sizes flux sana

One picture of the model's own resolution, in bfloat16. Prints a Markdown table: weights of the denoiser and of the text encoders;
TFLOP of a forward and backward pass through the denoiser, and of what the text encoders add for a word before them (forwards and
backwards, every step) and behind them (forwards, once a sentence); the activations that the denoiser, and the text encoders for a
word before them, keep for the backward pass. Attention is counted as plain matrix products, and keeps their results; fused kernels
keep less. The first stage, which runs once a picture, is left out.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    ChromaTransformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from jobs.bench.published.architectures import clip, gemma_2_2b, pixart, qwen3_4b, sana, sd3, t5_xxl

GIB, TERA = 2**30, 1e12
Calls = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """denoiser, call: makes it, and what it is called with for a context (1, L, width). tokens, width: of the context.

    encoders: each made by its function, with the tokens that it reads.
    """

    denoiser: Callable[[], nn.Module]
    call: Callable[[Tensor], Calls]
    tokens: int
    width: int
    encoders: tuple[tuple[Callable[[], nn.Module], int], ...]


def _clip(width: int, layers: int) -> Callable[[], nn.Module]:
    return lambda: CLIPTextModel(clip(width, layers))


def _qwen_vl() -> nn.Module:
    text = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]}}  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 3584}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def _told(width: int, **more: Tensor) -> Callable[[Tensor], Calls]:
    """What Flux and Chroma are called with, of 1,024 pixels a side."""

    def call(context: Tensor) -> Calls:
        places = {"txt_ids": torch.zeros(context.shape[1], 3), "img_ids": torch.zeros(4096, 3)}
        return {"hidden_states": torch.zeros(1, 4096, width, dtype=torch.bfloat16), "timestep": torch.ones(1),
                "encoder_hidden_states": context, **places, **more}  # fmt: skip

    return call


def _masked(context: Tensor) -> Tensor:
    return torch.ones(1, context.shape[1], dtype=torch.long)


def sizes() -> Mapping[str, Size]:
    """By name. Called with the meta device as the default one."""
    half: Calls = {"dtype": torch.bfloat16}
    noisy4, noisy16 = torch.zeros(1, 4, 128, 128, **half), torch.zeros(1, 16, 128, 128, **half)
    time = torch.ones(1)
    clips, t5 = ((_clip(768, 12), 77), (_clip(1280, 32), 77)), (t5_xxl, 512)

    def flow(layers: int, heads: int, **more: Any) -> Size:
        return Size(
            lambda: sd3(layers, heads, **more),
            lambda context: {"hidden_states": noisy16, "encoder_hidden_states": context, "timestep": time,
                             "pooled_projections": torch.zeros(1, 2048, **half)},
            333, 4096, (*clips, (t5_xxl, 256)),
        )  # fmt: skip

    return {
        "sd3-medium": flow(24, 24),
        "sd3.5-large": flow(38, 38, qk_norm="rms_norm"),
        "flux": Size(
            lambda: FluxTransformer2DModel(guidance_embeds=True),
            _told(64, pooled_projections=torch.zeros(1, 768, **half), guidance=torch.ones(1)),
            512, 4096, (clips[0], t5),
        ),
        "chroma": Size(ChromaTransformer2DModel, _told(64), 512, 4096, (t5,)),
        "pixart-sigma": Size(
            lambda: pixart(sized=False),
            lambda context: {"hidden_states": noisy4, "encoder_hidden_states": context, "timestep": time,
                             "encoder_attention_mask": _masked(context),
                             "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
            300, 4096, ((t5_xxl, 300),),
        ),
        "sana": Size(
            lambda: sana(large=True),
            lambda context: {"hidden_states": torch.zeros(1, 32, 32, 32, **half), "encoder_hidden_states": context,
                             "timestep": time, "encoder_attention_mask": _masked(context)},
            300, 2304, ((gemma_2_2b, 300),),
        ),
        "z-image": Size(
            ZImageTransformer2DModel,
            lambda context: {"x": [noisy16[0][:, None]], "t": time, "cap_feats": [context[0]]},
            128, 2560, ((qwen3_4b, 512),),
        ),
        "qwen-image": Size(
            QwenImageTransformer2DModel,
            lambda context: {"hidden_states": torch.zeros(1, 4096, 64, **half), "encoder_hidden_states": context,
                             "timestep": time, "encoder_hidden_states_mask": _masked(context).bool(),
                             "img_shapes": [[(1, 64, 64)]]},
            222, 3584, ((_qwen_vl, 256),),
        ),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Count:
    """weights: GiB. forward, both: TFLOP forwards, and with the backward pass. kept: GiB for the backward pass."""

    weights: float
    forward: float
    both: float
    kept: float


def count(module: nn.Module, run: Callable[[nn.Module], tuple[Tensor, Tensor]]) -> Count:
    """run: a forward pass; its result, and the tensor whose gradient is wanted."""
    module = module.to(torch.bfloat16).requires_grad_(False).eval()
    parameters = {id(each) for each in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters and not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    forward, both = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with both:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), forward:
            result, wanted = run(module)
        result.float().sum().backward()  # FlopCounterMode does not stand autograd.grad
    assert wanted.grad is not None
    weights = sum(each.numel() * 2 for each in module.parameters())
    own = {each.untyped_storage()._cdata for each in module.parameters()}
    activations = sum(size for storage, size in kept.items() if storage not in own)
    return Count(weights / GIB, forward.get_total_flops() / TERA, both.get_total_flops() / TERA, activations / GIB)


def counted(size: Size) -> tuple[Count, list[Count]]:
    """Of the denoiser, and of each text encoder."""

    def denoise(module: nn.Module) -> tuple[Tensor, Tensor]:
        context = torch.zeros(1, size.tokens, size.width, dtype=torch.bfloat16, requires_grad=True)
        said = module(**size.call(context)).sample
        return (said[0] if isinstance(said, list) else said), context

    def reads(tokens: int) -> Callable[[nn.Module], tuple[Tensor, Tensor]]:
        def read(module: nn.Module) -> tuple[Tensor, Tensor]:
            table: Tensor = module.get_input_embeddings().weight.requires_grad_()  # type: ignore[operator]
            said = module(torch.zeros(1, tokens, dtype=torch.long), output_hidden_states=True)
            return said.hidden_states[-1], table

        return read

    return count(size.denoiser(), denoise), [count(make(), reads(tokens)) for make, tokens in size.encoders]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="count_sizes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="(default: all)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    with torch.device("meta"):
        known = sizes()
        if unknown := set(arguments.names) - set(known):
            parser().error(f"there is no {min(unknown)}; choose from {', '.join(known)}")
        print("| | denoiser, GiB | text encoders, GiB | denoiser, TFLOP | a word before: TFLOP more | behind, once a sentence | "
              "kept by the denoiser, GiB | by the text encoders, for a word before |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|")
        for name in arguments.names or known:
            denoiser, encoders = counted(known[name])
            figures = (
                denoiser.weights, sum(each.weights for each in encoders), denoiser.both, sum(each.both for each in encoders),
                sum(each.forward for each in encoders), denoiser.kept, sum(each.kept for each in encoders),
            )  # fmt: skip
            print(f"| `{name}` | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
