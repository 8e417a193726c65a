"""Measures speed on this machine, as ratios within one run: python jobs/bench/bench.py [--output runs/bench.json]

job_over_process_loop     seconds per concept of the whole job (Ray, scores, report) over those of a plain loop that starts one
                          process per concept, which imports, loads, trains the same steps and draws the same pictures
slots_rate_K_over_1       training images a second with K concepts in one batch over those with one
step_rate_over_bare_unet  rate of our training step over that of a bare U-Net forward and backward pass of the same batch;
                          ..._and_text_encoder: over one that also runs the text encoder, which every step needs
step_seconds_over_naive   seconds a training picture of ours, one concept, over those of bench_trainers.py's trainer, batch of 4;
                          slot_... with the fastest number of concepts at once; ..._bfloat16 with eight

unet_evaluations_over_paper   U-Net evaluations until a word reaches 95 % of the gain in image similarity of the paper's recipe,
                          over those of that recipe; text_similarity_...: ours at that point minus the recipe's

and the figures of bench_scheduling.py: the driver's overhead, the scan of a large run, the occupancy of slots.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from eval.comparison.curve import Measured, costs_of, courses_of
from jobs import compare
from jobs.api import RunRequest, invert
from jobs.bench.bench_scheduling import driver_overhead, occupancy, resume_scan
from jobs.bench.bench_trainers import PlainTrainer
from jobs.cli.arguments import MOST_STEPS, file_to_write, whole_number
from jobs.cli.log import Log
from pipeline.inputs.image_sets import find_images, load_images
from pipeline.inputs.manifest import read_manifest
from pipeline.models.base import Backbone, Conditioning
from pipeline.models.find import MINI_FOLDER
from pipeline.models.load import load_backbone
from pipeline.protocols import QUICK
from pipeline.records import Concept, Word
from pipeline.sampling.prompting import requests_for
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.word_files import encode_word
from pipeline.training.inversion import InversionError, Slot, draw, new_slot, train_step

DEMO = "jobs/demo/manifest.csv"
SLOTS = (1, 2, 4, 8)
CURVE = Path("runs/compare")
WARM_UP, COUNTED = 3, 12


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=file_to_write, default=Path("runs/bench.json"))
    parser.add_argument(
        "--steps",
        type=whole_number(0, MOST_STEPS),
        default=InversionSettings().steps,
        help="of every word (default: %(default)s)",
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this (may be repeated)")
    parser.add_argument("--one", metavar="CONCEPT", help=argparse.SUPPRESS)  # the process that the plain loop starts
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    settings = InversionSettings(steps=arguments.steps)
    if arguments.one:
        learn_alone(arguments.one, settings, arguments.output)
        return 0
    figures: dict[str, float] = {}
    for part in arguments.part or PARTS:
        began = time.monotonic()
        figures |= PARTS[part](settings)
        print(f"== {part}: {time.monotonic() - began:.0f} s", flush=True)
    report = {
        **figures,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "steps": settings.steps,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))
    return 0


def job_against_processes(settings: InversionSettings) -> dict[str, float]:
    names = [concept.name for concept in read_manifest(DEMO).concepts]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result = invert(RunRequest(DEMO, output=f"{folder}/job", settings=settings), Log())
        job = time.monotonic() - began
        if result.failures:
            raise RuntimeError(f"no word for {', '.join(result.failures)}")
        # Words stop early; the loop trains each for as many steps as the job did.
        steps = pq.read_table(f"{folder}/job/embeddings", columns=["steps"]).column("steps").to_pylist()
        began = time.monotonic()
        for name in names:
            command = [
                sys.executable,
                __file__,
                "--one",
                name,
                "--steps",
                str(settings.steps),
                "--output",
                f"{folder}/{name}.safetensors",
            ]
            subprocess.run(command, check=True)
        loop = time.monotonic() - began
    images = sum(steps) * settings.batch_size
    return {
        "job_over_process_loop": round(job / loop, 3),
        "job_seconds_per_concept": round(job / len(names), 2), "loop_seconds_per_concept": round(loop / len(names), 2),
        "job_training_images_per_second": round(images / job, 1), "loop_training_images_per_second": round(images / loop, 1),
    }  # fmt: skip


def learn_alone(name: str, settings: InversionSettings, output: Path) -> None:
    """Trains one concept like the public trainers: in its own process, which loads the model."""
    concept = next(each for each in read_manifest(DEMO).concepts if each.name == name)
    backbone = load_backbone("mini")
    word = train(backbone, slot_of(concept, backbone, settings))
    requests = requests_for(concept, QUICK, settings.seed)
    for vectors, trained in ((word.vectors, True), (word.initial, False)):
        some = [request for request in requests if request.trained == trained]
        sample(backbone, [request.prompt for request in some], [request.seed for request in some], {concept.placeholder: vectors},
               SamplerSettings(QUICK.sampler, QUICK.steps, QUICK.guidance))  # fmt: skip
    output.write_bytes(encode_word(word.placeholder, word.vectors, backbone.word_keys))


def slot_of(concept: Concept, backbone: Backbone, settings: InversionSettings) -> Slot:
    return new_slot(concept, load_images(find_images(concept), backbone.resolution).pixels, backbone, settings)


def train(backbone: Backbone, slot: Slot) -> Word:
    while True:
        for _, end in train_step(backbone, [slot]):
            if isinstance(end, InversionError):
                raise end
            return end


def slots_and_steps(settings: InversionSettings) -> dict[str, float]:
    """On one thread, as one CPU worker has it."""
    torch.set_num_threads(1)
    backbone = load_backbone("mini")
    concepts = read_manifest(DEMO).concepts
    rates = {}
    for count in SLOTS:
        slots = [slot_of(concept, backbone, settings) for concept in concepts[:count]]
        rates[count] = count * settings.batch_size / seconds_each(lambda slots=slots: train_step(backbone, slots))
    slot = slot_of(concepts[0], backbone, settings)
    drawn = draw(slot, backbone, "step", 0, settings.batch_size)
    conditioning = Conditioning(backbone.embed(drawn.tokens, slot.words).context.detach().requires_grad_())
    bare = settings.batch_size / seconds_each(
        lambda: backbone.predict(drawn.latents, drawn.timesteps, conditioning).square().mean().backward()
    )
    whole = settings.batch_size / seconds_each(
        lambda: (
            backbone.predict(drawn.latents, drawn.timesteps, backbone.embed(drawn.tokens, slot.words))
            .square()
            .mean()
            .backward()
        )
    )
    trainer = PlainTrainer(MINI_FOLDER, "cpu", torch.float32, "<word>", "bird")
    half, most = load_backbone("mini", settings=ModelSettings("bfloat16")), concepts[: max(SLOTS)]
    slots = [slot_of(concept, half, settings) for concept in most]
    in_half = len(most) * settings.batch_size / seconds_each(lambda: train_step(half, slots))
    side = backbone.resolution
    pixels = torch.rand(settings.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = settings.batch_size / seconds_each(lambda: trainer.step(pixels))
    return {
        **{f"slots_rate_{count}_over_1": round(rates[count] / rates[1], 2) for count in SLOTS[1:]},
        "step_rate_over_bare_unet": round(rates[1] / bare, 3),
        "step_rate_over_bare_unet_and_text_encoder": round(rates[1] / whole, 3),
        "step_seconds_over_naive": round(plain / rates[1], 3),
        "slot_step_seconds_over_naive": round(plain / max(rates.values()), 3),
        "slot_step_seconds_over_naive_bfloat16": round(plain / in_half, 3),
        **{f"images_per_second_{count}_slots": round(rate, 1) for count, rate in rates.items()},
    }


def seconds_each(call: object) -> float:
    """Median seconds of a call, after a warm-up."""
    assert callable(call)
    times = []
    for _ in range(WARM_UP + COUNTED):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times[WARM_UP:]))


def unet_evaluations() -> dict[str, float]:
    """The cost of a word until it is as good as one of the paper's recipe, measured by compare.py."""
    if compare.main(["--steps-curve", "--output", str(CURVE)]):
        raise RuntimeError("the curve of quality against cost could not be measured")
    rows = [Measured(**row) for row in pq.read_table(CURVE / "curve.parquet").to_pylist()]
    costs = {each.recipe: each for each in costs_of(courses_of(rows), "paper", np.random.default_rng(0))}
    ours = costs["wordmint"]
    figures = {"unet_evaluations_over_paper": ours.ratio, "text_similarity_there_less_papers": ours.text}
    return {name: round(value, 3) for name, value in figures.items() if np.isfinite(value)}


def occupied_slots(settings: InversionSettings) -> dict[str, float]:
    torch.set_num_threads(1)
    backbone = load_backbone("mini")
    concepts = read_manifest(DEMO).concepts

    def new(number: int, own: InversionSettings) -> Slot:
        own = replace(own, batch_size=settings.batch_size)
        return slot_of(concepts[number % len(concepts)], backbone, own)

    return occupancy(backbone, new)


PARTS: dict[str, Callable[[InversionSettings], dict[str, float]]] = {
    "job": job_against_processes,
    "slots": slots_and_steps,
    "occupancy": occupied_slots,
    "driver": lambda _: driver_overhead(),
    "scan": lambda _: resume_scan(),
    "curve": lambda _: unet_evaluations(),
}


def machine() -> str:
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            processor = line.split(":")[1].strip()
            break

    python, system = platform.python_version(), platform.system()
    return f"{processor}, {os.cpu_count()} cores, {system}, Python {python}, torch {torch.__version__}"


def commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
