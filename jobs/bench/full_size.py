"""Measures memory and time of a training step on a model of the published size, with random weights.

  python jobs/bench/full_size.py sd-1.5 --dtype bfloat16 --resolution 256
  python jobs/bench/full_size.py sdxl --device cuda --batch-size 1

Nothing is downloaded. The weights are written to a temporary folder (2 GB for sd-1.5 in half precision, 7 GB for sdxl),
and from there the model is loaded as any other. Prints one JSON object. Exit codes: 0 measured; 1 the word
did not change, or a frozen weight did.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from torch import nn
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from jobs.bench.bench_trainers import PlainTrainer
from jobs.cli.arguments import MOST_STEPS, new_folder, whole_number
from pipeline.models.base import Backbone
from pipeline.models.find import MINI_FOLDER
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.training.inversion import InversionError, Slot, new_slot, train_step

CONTEXT = 77
BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """parts: folder -> the module as published, made on the meta device."""

    pipeline: str
    parts: dict[str, nn.Module]
    tokenizers: tuple[str, ...]
    betas: tuple[float, float]


def architecture(name: str) -> Architecture:
    """ "sd-1.5", "sdxl" or "ldm" (the paper's) from its published configuration; allocates no memory."""
    with torch.device("meta"):
        if name == "sd-1.5":
            parts = {"text_encoder": CLIPTextModel(_clip(768, 12)), "unet": _unet(768), "vae": _vae(512, 0.18215)}
            return Architecture("StableDiffusionPipeline", parts, ("tokenizer",), (0.00085, 0.012))
        if name == "ldm":
            parts = {
                "bert": LDMBertModel(LDMBertConfig()),
                "unet": _unet(1280, sample_size=32),
                "vqvae": _vae(256, 0.18215),
            }
            return Architecture("LDMTextToImagePipeline", parts, ("tokenizer",), (0.0015, 0.0195))
        if name == "sdxl":
            second = CLIPTextModelWithProjection(_clip(1280, 32))
            parts = {"text_encoder": CLIPTextModel(_clip(768, 12)), "text_encoder_2": second,
                     "unet": _xl_unet(), "vae": _vae(1024, 0.13025)}  # fmt: skip
            return Architecture("StableDiffusionXLPipeline", parts, ("tokenizer", "tokenizer_2"), (0.00085, 0.012))
    raise ValueError(f"architecture {name!r} is not known; choose {', '.join(ARCHITECTURES)}")


ARCHITECTURES = ("sd-1.5", "sdxl", "ldm")


def _clip(width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=CONTEXT, projection_dim=width,
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


def save(name: str, folder: Path, dtype: torch.dtype) -> None:
    """Random weights in diffusers' layout, one part in memory at a time. The vocabulary is the mini model's, its table of
    the published size.
    """
    made = architecture(name)
    generator = torch.Generator().manual_seed(0)
    for part, module in list(made.parts.items()):
        module = module.to(torch.float32 if part in ("vae", "vqvae") else dtype).to_empty(device="cpu")
        for key, value in module.named_parameters():
            if value.ndim > 1:
                value.data.normal_(0, 0.02, generator=generator)
            else:
                value.data.fill_(float(key.endswith("weight")))
        module.save_pretrained(folder / part)  # type: ignore[operator]
        del made.parts[part], module
    for tokenizer in made.tokenizers:
        if name == "ldm":
            words = [
                "[PAD]",
                "[UNK]",
                "[CLS]",
                "[SEP]",
                "[MASK]",
                *"abcdefghijklmnopqrstuvwxyz",
                "<",
                ">",
                "-",
                ",",
                ".",
            ]
            BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder / tokenizer)
        else:
            mini = CLIPTokenizer.from_pretrained(MINI_FOLDER / "tokenizer", model_max_length=CONTEXT)
            mini.save_pretrained(folder / tokenizer)
    betas = dict(zip(("beta_start", "beta_end"), made.betas, strict=True))
    (folder / "scheduler").mkdir()
    schedule = json.dumps({"_class_name": "DDIMScheduler", **BETAS, **betas})
    (folder / "scheduler/scheduler_config.json").write_text(schedule, encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": made.pipeline}), encoding="utf-8")


def measure(backbone: Backbone, settings: InversionSettings) -> dict[str, Any]:
    """Seconds of each step of one word, and whether only the word changed."""
    side = settings.resolution or backbone.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    before = backbone.weights_digest()
    began = time.perf_counter()
    slot = new_slot(Concept(name="c", images=(), placeholder="<c>"), pixels, backbone, settings)
    encoding = time.perf_counter() - began
    seconds: list[float] = []
    ended: list[tuple[Slot, Word | InversionError]] = []
    while not ended:
        began = time.perf_counter()
        ended = train_step(backbone, [slot])
        seconds.append(round(time.perf_counter() - began, 2))
    word = ended[0][1]
    changed = isinstance(word, Word) and all((word.vectors[name] != word.initial[name]).any() for name in word.vectors)
    return {
        "resolution": side, "batch_size": settings.batch_size, "encoding_seconds": round(encoding, 2),
        "step_seconds": seconds[:-1], "last_step_and_validation_seconds": seconds[-1],
        "word_changed": changed, "weights_unchanged": backbone.weights_digest() == before,
    }  # fmt: skip


def plain_steps(folder: Path, arguments: argparse.Namespace, side: int) -> list[float]:
    """Seconds of each step of bench_trainers.py's trainer, with the same weights and batch size."""
    dtype = getattr(torch, arguments.dtype)
    trainer = PlainTrainer(folder, arguments.device, dtype, "<word>", "bird")
    pixels = torch.rand(arguments.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seconds = []
    for _ in range(arguments.steps):
        began = time.perf_counter()
        trainer.step(pixels)
        seconds.append(round(time.perf_counter() - began, 2))
    return seconds


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="full_size.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"), help="(default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--resolution", type=whole_number(16, 8192), metavar="R", help="(default: the model's own)")
    parser.add_argument(
        "--batch-size", type=whole_number(1, 1024), default=1, metavar="B", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=whole_number(0, MOST_STEPS), default=2, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--plain", action="store_true", help="a step of bench_trainers.py's trainer as well (sd-1.5 only)"
    )
    parser.add_argument(
        "--folder", type=new_folder, help="for the weights, removed afterwards (default: a temporary one)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.plain and arguments.architecture != "sd-1.5":
        parser().error("--plain knows sd-1.5 only")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="full-size-"))
    settings = InversionSettings(
        steps=arguments.steps + 1,  # the last step also runs the validation batch
        batch_size=arguments.batch_size,
        resolution=arguments.resolution,
        early_stop="off",
        flip=False,
    )
    try:
        # In its own process, so that its memory is not counted.
        saver = multiprocessing.get_context("spawn").Process(
            target=save, args=(arguments.architecture, folder, getattr(torch, arguments.dtype))
        )
        saver.start()
        saver.join()
        began = time.perf_counter()
        backbone = load_backbone(str(folder), arguments.device, ModelSettings(arguments.dtype))
        figures = {
            "architecture": arguments.architecture, "dtype": arguments.dtype, "device": arguments.device,
            "loading_seconds": round(time.perf_counter() - began, 1), **measure(backbone, settings),
            "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }  # fmt: skip
        if backbone.device.type == "cuda":
            figures["peak_gpu_mib"] = torch.cuda.max_memory_allocated(backbone.device) // 2**20
        if arguments.plain:
            side = figures["resolution"]
            del backbone
            figures["plain_step_seconds"] = plain_steps(folder, arguments, side)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=2))
    return 0 if figures["word_changed"] and figures["weights_unchanged"] else 1


if __name__ == "__main__":
    sys.exit(main())
