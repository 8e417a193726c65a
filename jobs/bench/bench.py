"""Measures speed on this machine, as ratios within one run: python jobs/bench/bench.py [--output runs/bench.json]

Words are learned by the shipped model's recipe.

job_over_process_loop     seconds per concept of the whole job (Ray, scores, report) over those of a plain loop that starts one
                          process per concept, which imports, loads, trains the same steps and draws the same pictures
slots_rate_K_over_1       training images a second with K concepts in one batch over those with one
step_rate_over_bare_unet  rate of our training step over that of a bare U-Net forward and backward pass of the same batch;
                          ..._and_text_encoder: over one that also runs the text encoder, which every step needs
step_seconds_over_naive   seconds a training picture of ours, one concept, over those of bench_trainers.py's trainer, batch of 4;
                          slot_... with the fastest number of concepts at once; ..._bfloat16 with eight; bare_unet_...
                          of the U-Net alone with eight

and the figures of bench_scheduling.py: the driver's overhead, the scan of a large run, the occupancy of slots. With --part curve:

unet_evaluations_over_paper   U-Net evaluations until a word reaches 95 % of the gain in image similarity of the paper's recipe,
                          over those of that recipe; text_similarity_...: ours at that point minus the recipe's

Each part is written when it is done, beside a Markdown file with its rows for docs/measured.md. The same command on the same
commit goes on with the parts that are missing; once none is, it measures all of them again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from eval.comparison.curve import Measured, costs_of, courses_of
from jobs import compare
from jobs.api import RunRequest, invert
from jobs.bench.bench_scheduling import (
    NewSlot,
    driver_overhead,
    occupancy,
    occupancy_beside_pictures,
    resume_scan,
)
from jobs.bench.bench_trainers import PlainTrainer
from jobs.bench.machine import commit, machine
from jobs.cli.arguments import MOST_STEPS, file_to_write, whole_number
from jobs.cli.log import Log
from pipeline.inputs.image_sets import find_images, load_images
from pipeline.inputs.manifest import RowDefaults, read_manifest
from pipeline.models.base import Backbone, Conditioning
from pipeline.models.find import MINI, MINI_FOLDER
from pipeline.models.load import load_backbone
from pipeline.protocols import QUICK
from pipeline.records import Concept, Word
from pipeline.sampling.prompting import requests_for
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.word_files import encode_word
from pipeline.training.inversion import Draws, InversionError, Slot, draw, new_slot, train_step
from pipeline.training.recipes import recipe_of, vectors_of

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
        default=recipe_of(MINI).steps,
        help="of every word (default: %(default)s)",
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="measure this, again or not (may be repeated)")
    parser.add_argument("--one", metavar="CONCEPT", help=argparse.SUPPRESS)  # the process that the plain loop starts
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    settings = replace(recipe_of(MINI), steps=arguments.steps)
    if arguments.one:
        learn_alone(arguments.one, settings, arguments.output)
        return 0
    report: dict[str, Any] = {"machine": machine(), "commit": commit(), "steps": settings.steps}
    before = figures_of(arguments.output, report)
    missing = [part for part in USUAL if part not in before.get("seconds_of_parts", {})]
    report = {"seconds_of_parts": {}} | before | report
    failed = []
    for part in arguments.part or missing or USUAL:
        began = time.monotonic()
        try:
            report |= PARTS[part](settings)
        except Exception:  # noqa: BLE001 - the others' figures should not be lost
            traceback.print_exc()
            failed.append(part)
            continue
        report["seconds_of_parts"] |= {part: round(time.monotonic() - began)}
        report["date"] = datetime.now(UTC).date().isoformat()
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
        print(f"== {part}: {time.monotonic() - began:.0f} s", flush=True)
    print(json.dumps(report, indent=2), markdown(report), sep="\n\n")
    if failed:
        print(f"not measured, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def figures_of(file: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """What the file has of the same machine, commit and steps; {} for anything else."""
    try:
        before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return before if all(before.get(name) == value for name, value in report.items()) else {}


def markdown(report: Mapping[str, Any]) -> str:
    """The rows of docs/measured.md that its figures fill."""
    lines = [f"`make bench`, {report['date']}, {report['machine']}, {report['steps']} steps a word:", ""]
    lines += ["| `make bench`, or one `--part` of it | | |", "|---|---|---|"]
    figures = defaultdict(lambda: "none", report)
    for part, said, values in ROWS:
        if part in report["seconds_of_parts"]:
            lines.append(f"| {said} | `{part}` | {values.format_map(figures)} |")
    return "\n".join(lines) + "\n"


def job_against_processes(settings: InversionSettings) -> dict[str, float]:
    names = [concept.name for concept in demo_concepts()]
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


def demo_concepts() -> tuple[Concept, ...]:
    """As the job reads them."""
    return read_manifest(DEMO, defaults=RowDefaults(vectors_of(MINI))).concepts


def learn_alone(name: str, settings: InversionSettings, output: Path) -> None:
    """Trains one concept like the public trainers: in its own process, which loads the model."""
    concept = next(each for each in demo_concepts() if each.name == name)
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
    concepts = demo_concepts()
    rates = {}
    for count in SLOTS:
        slots = [slot_of(concept, backbone, settings) for concept in concepts[:count]]
        rates[count] = count * settings.batch_size / seconds_each(lambda slots=slots: train_step(backbone, slots))
    slot = slot_of(concepts[0], backbone, settings)
    drawn = draw(slot, backbone, "step", 0, settings.batch_size)
    context = backbone.embed(drawn.tokens, slot.words).context.detach()
    bare = {count: bare_rate(backbone, drawn, context, count) for count in (1, max(SLOTS))}
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
        "step_rate_over_bare_unet": round(rates[1] / bare[1], 3),
        "step_rate_over_bare_unet_and_text_encoder": round(rates[1] / whole, 3),
        "step_seconds_over_naive": round(plain / rates[1], 3),
        "slot_step_seconds_over_naive": round(plain / max(rates.values()), 3),
        "slot_step_seconds_over_naive_bfloat16": round(plain / in_half, 3),
        "bare_unet_seconds_over_naive": round(plain / bare[max(SLOTS)], 3),
        **{f"images_per_second_{count}_slots": round(rate, 1) for count, rate in rates.items()},
        "images_per_second_naive": round(plain, 1),
    }


def bare_rate(backbone: Backbone, drawn: Draws, context: Tensor, slots: int) -> float:
    """Pictures a second through the U-Net and back, as many as that many slots have, and nothing else."""
    latents, timesteps = (torch.cat([each] * slots) for each in (drawn.latents, drawn.timesteps))
    conditioning = Conditioning(torch.cat([context] * slots).requires_grad_())
    return len(latents) / seconds_each(
        lambda: backbone.predict(latents, timesteps, conditioning).square().mean().backward()
    )


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
    return occupancy(*_occupants(settings))


def occupied_beside_pictures(settings: InversionSettings) -> dict[str, float]:
    return occupancy_beside_pictures(*_occupants(settings))


def _occupants(settings: InversionSettings) -> tuple[Backbone, NewSlot]:
    torch.set_num_threads(1)
    backbone = load_backbone(MINI)
    concepts = demo_concepts()

    def new(number: int, own: InversionSettings) -> Slot:
        own = replace(own, batch_size=settings.batch_size)
        return slot_of(concepts[number % len(concepts)], backbone, own)

    return backbone, new


# Part, what it says, and its figures.
ROWS = (
    (
        "job",
        "seconds a concept of the job over those of a loop that starts one process a concept, for the demo's twelve; goal 0.6",
        "{job_over_process_loop} ({job_seconds_per_concept} s over {loop_seconds_per_concept} s)",
    ),
    (
        "job",
        "training pictures a second of the job; of that loop",
        "{job_training_images_per_second}; {loop_training_images_per_second}",
    ),
    (
        "slots",
        "a step, batch of 4, over a bare U-Net forward and backward: rate; with the text encoder; goal 0.9",
        "{step_rate_over_bare_unet}; {step_rate_over_bare_unet_and_text_encoder}",
    ),
    (
        "slots",
        "seconds a training picture over `bench_trainers.py`: one slot; the best number; eight in bfloat16; goal 0.5",
        "{step_seconds_over_naive}; {slot_step_seconds_over_naive}; {slot_step_seconds_over_naive_bfloat16}",
    ),
    (
        "slots",
        "the same of a bare U-Net that goes forward and back with the pictures of eight slots: no step can take less",
        "{bare_unet_seconds_over_naive}",
    ),
    (
        "slots",
        "training pictures a second, one thread: 1, 2, 4, 8 slots; of `bench_trainers.py`",
        ", ".join(f"{{images_per_second_{count}_slots}}" for count in SLOTS) + "; {images_per_second_naive}",
    ),
    (
        "driver",
        "driver: 10,000 concepts whose training does nothing, 8 workers of 4 slots",
        "{driver_concepts_per_second:,.0f} concepts/s; {driver_ms_per_concept} ms of its CPU a concept",
    ),
    (
        "driver",
        "its memory at the start, and what it grows by; files left behind",
        "{driver_rss_mb_at_start} MB, {driver_rss_growth_mb_10k} MB; {driver_files_left_10k}",
    ),
    (
        "scan",
        "finding that 100,000 concepts are done: local disk; moto's S3 server on the same machine",
        "{resume_scan_seconds_100k} s; {resume_scan_seconds_100k_moto} s",
    ),
    (
        "occupancy",
        "16 concepts of 10 to 80 steps, 4 slots: concepts a minute over fixed packs; over one at a time",
        "{occupancy_over_packs}; {occupancy_over_one_at_a_time}",
    ),
    (
        "occupancy",
        "share of slots that hold a concept: continuous batching; fixed packs",
        "{slots_occupied_continuous:.0%}; {slots_occupied_packs:.0%}",
    ),
    (
        "pictures",
        "share until none waits, where each word is drawn by `quick` while others train; concepts a minute; goal 95 %",
        "{slots_occupied_with_pictures:.0%}; {concepts_per_minute_with_pictures}",
    ),
    ("curve", "U-Net evaluations to 95 % of the paper's gain, over the paper's", "{unet_evaluations_over_paper}"),
)

PARTS: dict[str, Callable[[InversionSettings], dict[str, float]]] = {
    "job": job_against_processes,
    "slots": slots_and_steps,
    "occupancy": occupied_slots,
    "pictures": occupied_beside_pictures,
    "driver": lambda _: driver_overhead(),
    "scan": lambda _: resume_scan(),
    "curve": lambda _: unet_evaluations(),
}
USUAL = tuple(part for part in PARTS if part != "curve")  # which takes an hour, and is no figure of speed


if __name__ == "__main__":
    sys.exit(main())
