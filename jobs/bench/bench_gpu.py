"""Measures training and a whole job on a GPU, within nine minutes and without a network.

  make bench-gpu
  python jobs/bench/bench_gpu.py [--device cuda] [--model mini] [--output runs/bench-gpu.json]

Models of the published sizes have random weights: speed does not depend on them. For each model and number of slots:

images_per_second   training pictures a second, a batch of 4 a slot, median step
share_of_bare       that rate over the rate of a bare U-Net's forward and backward pass of the same batch
peak_gib            most memory allocated during those steps
plain               the same for a straightforward loop in the manner of diffusers' script (bench_trainers.py), one concept
..._graph, ..._blocks with the training step captured as CUDA graphs, and with the denoiser's blocks compiled, as time allows

From the number on that does not fit into memory, gradient checkpointing is on. Then it tests whether a word learned twice has the
same bits, and measures its cosine to the word learned in a batch with others; and it runs whole jobs: concepts an hour, share of
the time that the GPU is busy (NVML, by nvidia-smi), seconds until each milestone. Each measurement ends in time, and the JSON
file, with a Markdown table beside it, is written after each. What was not measured is listed under "skipped". The jobs need Ray
and torchvision, the rest does not.
"""

import argparse
import functools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from jobs.bench.gpu.gpu_job import whole_job
from jobs.bench.gpu.gpu_rates import Subject, measure_faster, measure_usual, plain_rate
from jobs.bench.gpu.time_budget import TO_END, Bench
from jobs.bench.machine import commit, machine
from jobs.bench.published.architectures import architecture
from jobs.bench.published.random_weights import save
from jobs.cli.arguments import MOST_STEPS, file_to_write, minutes, whole_number
from pipeline.models.device_memory import give_memory_back
from pipeline.models.find import MINI, MINI_FOLDER
from pipeline.models.load import load_backbone
from pipeline.settings import DTYPES, ModelSettings

MINUTES = 9.0
SLOTS = (1, 2, 4, 8, 16, 32, 64)
SUBJECTS = {
    each.name: each
    for each in (Subject("sd-1.5", 512, 8, 0.6), Subject(MINI, 64, 64, 0.55), Subject("sdxl", 1024, 0, 1.0))
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        choices=("cpu", "cuda"),
        help="(default: %(default)s)",
    )
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="(default: bfloat16 on a GPU that has it)")
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="measure only this (may be repeated)")
    parser.add_argument(
        "--slots", type=whole_number(1, 1024), nargs="+", default=SLOTS, metavar="K", help="(default: 1 to 64)"
    )
    parser.add_argument(
        "--concepts",
        type=whole_number(0, 1_000_000),
        metavar="N",
        help="of each job (default: 64 for mini, 8 for sd-1.5)",
    )
    parser.add_argument(
        "--steps", type=whole_number(0, MOST_STEPS), help="of the job's words (default: mini's recipe, 200 for sd-1.5)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave compiled blocks and CUDA graphs out")
    parser.add_argument("--minutes", type=minutes, default=MINUTES, help="end by then (default: %(default)s)")
    parser.add_argument("--output", type=file_to_write, default=Path("runs/bench-gpu.json"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    ends = time.monotonic() + 60 * arguments.minutes
    bench = Bench(arguments.device, arguments.dtype, arguments.slots, ends, arguments.output)
    bench.report |= {
        "device": torch.cuda.get_device_name() if bench.device == "cuda" else "cpu", "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(), "commit": commit(),
    }  # fmt: skip
    for subject in SUBJECTS.values():
        if arguments.model and subject.name not in arguments.model:
            continue
        now = time.monotonic()
        bench.ends = now + subject.share * (ends - now) if not arguments.model else ends
        concepts = subject.concepts if arguments.concepts is None else arguments.concepts if subject.concepts else 0
        measure(subject, bench, concepts, arguments.steps, not arguments.no_compile)
    print(bench.output.with_suffix(".md").read_text(encoding="utf-8"))
    return 0


def measure(subject: Subject, bench: Bench, concepts: int, steps: int | None, compiles: bool) -> None:
    """What matters most comes first. Compiling is last, because it takes a minute for each number of slots."""
    into: dict[str, Any] = {"slots": {}, "plain": {}, "job": {}}
    bench.report[subject.name] = into
    name = subject.name
    with tempfile.TemporaryDirectory() as scratch:
        folder = MINI_FOLDER if name == MINI else Path(scratch, "model")
        if name != MINI and not bench.part(
            f"{name}: weights", functools.partial(_write_weights, name, folder, bench.device), {}
        ):
            return
        loaded: dict[str, Any] = {}
        load = functools.partial(_load, folder, bench)
        if not bench.part(f"{name}: load", load, loaded):
            return
        dtype = loaded["backbone"].dtype
        measure_usual(subject, loaded["backbone"], bench, into)
        if compiles:
            measure_faster(subject, loaded["backbone"], bench, "graph", into)
        loaded.clear()
        give_memory_back()
        plain = functools.partial(plain_rate, subject, folder, bench, dtype)
        bench.part(f"{name}: plain loop", plain, into["plain"])
        if concepts:
            job = functools.partial(whole_job, subject, folder, bench, concepts, steps)
            bench.part(f"{name}: job", job, into["job"], most=bench.ends - time.monotonic() - TO_END)
        if compiles and bench.part(f"{name}: load again", load, loaded):
            measure_faster(subject, loaded["backbone"], bench, "blocks", into)


def _load(folder: Path, bench: Bench) -> dict[str, Any]:
    return {"backbone": load_backbone(str(folder), bench.device, ModelSettings(bench.dtype))}


def _write_weights(name: str, folder: Path, device: str) -> dict[str, Any]:
    # In its own process, so that its memory is freed.
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    saver = multiprocessing.get_context("spawn").Process(target=save, args=(architecture(name), folder, dtype))
    saver.start()
    try:
        saver.join()
    finally:
        saver.kill()
    if saver.exitcode:
        raise RuntimeError(f"the weights were not written: exit code {saver.exitcode}")
    return {}


if __name__ == "__main__":
    sys.exit(main())
