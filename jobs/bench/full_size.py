"""Measures memory and time of a training step on a model of the published size, with random weights.

  python jobs/bench/full_size.py sd-1.5 --dtype bfloat16 --resolution 256
  python jobs/bench/full_size.py sana-0.6b
  python jobs/bench/full_size.py sdxl --device cuda --batch-size 1

Nothing is downloaded. The weights are written to a temporary folder (2 GB for sd-1.5 in half precision, 7 GB for sdxl, 11 GB for
PixArt with its T5, 8 to 10 GB for Sana, 15 GB for SD 3 medium, 20 GB for Z-Image), and from there the model is loaded as any
other. Prints one JSON object: the seconds of each step, and those of a forward and a backward pass of the text encoders alone,
in as many prompts, which a word behind them spares. Exit codes: 0 measured; 1 the word did not change, or a frozen weight did.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.bench.bench_trainers import PlainTrainer
from jobs.bench.published.architectures import ARCHITECTURES, architecture
from jobs.bench.published.random_weights import save
from jobs.cli.arguments import MOST_STEPS, new_folder, whole_number
from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.training.inversion import new_slot, train_step

PROMPT, WORD = "a photo of a <c>", "<c>"


def measure(backbone: Backbone, settings: InversionSettings) -> dict[str, Any]:
    """Seconds of each step of one word, and whether only the word changed. The settings' last step is not taken: a look at the
    validation batch belongs to it.
    """
    side = settings.resolution or backbone.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    before = backbone.weights_digest()
    began = time.perf_counter()
    slot = new_slot(Concept(name="c", images=(), placeholder=WORD), pixels, backbone, settings)
    encoding = time.perf_counter() - began
    seconds: list[float] = []
    vectors = dict(slot.initial)
    for _ in range(settings.steps - 1):
        began = time.perf_counter()
        train_step(backbone, [slot])
        vectors = {name: word.detach().cpu().numpy() for name, word in slot.words.items()}  # waits for a GPU
        seconds.append(round(time.perf_counter() - began, 2))
    changed = all((vectors[name] != slot.initial[name]).any() for name in slot.initial)
    return {
        "resolution": side, "batch_size": settings.batch_size, "encoding_seconds": round(encoding, 2),
        "step_seconds": seconds, "text_encoders_seconds": round(text_encoders_seconds(backbone, settings.batch_size), 2),
        "word_changed": changed, "weights_unchanged": backbone.weights_digest() == before,
    }  # fmt: skip


def text_encoders_seconds(backbone: Backbone, batch_size: int) -> float:
    """Of a forward and a backward pass to a word before the text encoders, in as many prompts as a step has."""
    words = {
        name: torch.from_numpy(vectors).to(backbone.device).requires_grad_()
        for name, vectors in backbone.initial_vectors(None, 1).items()
    }
    tokens = backbone.tokenise([PROMPT] * batch_size, {WORD: range(1)})
    began = time.perf_counter()
    said = backbone.embed(tokens, words)
    sums = [each.float().sum() for each in (said.context, said.pooled) if each is not None]
    for gradient in torch.autograd.grad(sums, list(words.values())):
        gradient.cpu()
    return time.perf_counter() - began


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
    parser.add_argument("architecture", choices=tuple(ARCHITECTURES))
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"), help="(default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--resolution", type=whole_number(16, 8192), metavar="R", help="(default: the model's own)")
    parser.add_argument(
        "--batch-size", type=whole_number(1, 1024), default=1, metavar="B", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=whole_number(1, MOST_STEPS), default=2, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--plain", action="store_true", help="a step of bench_trainers.py's trainer as well (sd-1.5 only)"
    )
    parser.add_argument(
        "--checkpoint-gradients",
        action="store_true",
        help="recompute the denoiser's activations instead of keeping them",
    )
    parser.add_argument(
        "--folder", type=new_folder, help="for the weights, removed afterwards (default: a temporary one)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.plain and arguments.architecture != "sd-1.5":
        parser().error("--plain knows sd-1.5 only")
    try:
        settings = InversionSettings(
            steps=arguments.steps + 1,  # see `measure`
            batch_size=arguments.batch_size,
            resolution=arguments.resolution,
            early_stop="off",
            flip=False,
        )
    except ValueError as error:
        parser().error(str(error))
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="full-size-"))
    try:
        # In its own process, so that its memory is not counted.
        saver = multiprocessing.get_context("spawn").Process(
            target=save, args=(architecture(arguments.architecture), folder, getattr(torch, arguments.dtype))
        )
        saver.start()
        saver.join()
        if saver.exitcode:
            parser().error(f"the weights were not written to {folder}: see above")
        began = time.perf_counter()
        backbone = load_backbone(str(folder), arguments.device, ModelSettings(arguments.dtype))
        checkpointed = arguments.checkpoint_gradients and backbone.checkpoint_gradients(on=True)
        figures = {
            "architecture": arguments.architecture, "dtype": arguments.dtype, "device": arguments.device,
            "checkpointed": checkpointed, "loading_seconds": round(time.perf_counter() - began, 1), **measure(backbone, settings),
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
