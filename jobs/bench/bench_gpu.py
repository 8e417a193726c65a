"""Measures training and a whole job on a GPU, within nine minutes and without a network.

  make bench-gpu
  python jobs/bench/bench_gpu.py [--device cuda] [--model mini] [--output runs/bench-gpu.json]

Models of the published sizes have random weights: speed does not depend on them. For each model and number of slots:

images_per_second   training pictures a second, a batch of 4 a slot, median step
share_of_bare       that rate over the rate of a bare U-Net's forward and backward pass of the same batch
peak_gib            most memory allocated during those steps
plain               the same for a straightforward loop in the manner of diffusers' script (bench_trainers.py), one concept
..._blocks, ..._graph with the denoiser's blocks compiled, and with the training step captured as CUDA graphs

Then it tests whether a word learned twice has the same bits, and measures its cosine to the word learned in a batch with others;
and it runs whole jobs: concepts an hour, share of the time that the GPU is busy (NVML, by nvidia-smi), seconds until each
milestone. Measurements that do not fit into the time are listed under "skipped". Writes a Markdown table beside the JSON file.
"""

import argparse
import csv
import functools
import itertools
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from jobs.api import Placement, RunRequest, invert
from jobs.bench.bench import commit, machine
from jobs.bench.bench_trainers import PlainTrainer
from jobs.bench.published.architectures import architecture
from jobs.bench.published.random_weights import save
from jobs.cli.arguments import MOST_STEPS, file_to_write, minutes, whole_number
from jobs.cli.log import Log
from pipeline.models.base import Backbone, Conditioning
from pipeline.models.find import MINI_FOLDER
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.scheduling.slot_count import give_memory_back
from pipeline.settings import DTYPES, FastMode, InversionSettings, ModelSettings
from pipeline.training.inversion import Slot, draw, new_slot, train_step

MINUTES = 9.0
SLOTS = (1, 2, 4, 8, 16, 32, 64)
WARM_UP, COUNTED = 3, 8
BATCH = 4
ENDLESS = InversionSettings(steps=1_000_000, early_stop="off", batch_size=BATCH)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure. side: of its pictures in pixels. concepts: of its whole job, 0 for none."""

    name: str
    side: int
    concepts: int = 0


SUBJECTS = {each.name: each for each in (Subject("mini", 64, 64), Subject("sd-1.5", 512, 8), Subject("sdxl", 1024))}


class TimeIsUpError(Exception):
    """The next measurement would not end in time."""


@dataclass(frozen=True, slots=True)
class Bench:
    """device: "cuda" or "cpu". ends: on the clock of time.monotonic. figures: what was measured so far."""

    device: str
    dtype: str
    slots: Sequence[int]
    ends: float
    figures: dict[str, Any]
    skipped: list[str]

    def part(self, name: str, call: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
        """The result of `call`; {} if the time is up. A failure is reported, and the other parts go on."""
        began = time.monotonic()
        result: dict[Any, Any] = {}
        try:
            if began > self.ends:
                raise TimeIsUpError
            result = call()
        except TimeIsUpError:
            self.skipped.append(f"{name}: no time was left")
        except Exception as error:  # noqa: BLE001 - a lent machine should not be given back without the other figures
            said = (str(error).splitlines() or [""])[0]
            self.skipped.append(f"{name}: {type(error).__name__}: {said[:200]}")
        give_memory_back()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        return result

    def seconds_each(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, after a warm-up. Raises TimeIsUpError."""
        times = []
        for _ in range(WARM_UP + COUNTED):
            if time.monotonic() > self.ends:
                raise TimeIsUpError
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
        return float(np.median(times[WARM_UP:]))

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_gib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device == "cuda" else None


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
        "--steps", type=whole_number(0, MOST_STEPS), default=InversionSettings().steps, help="of the job's words"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave compiled blocks and CUDA graphs out")
    parser.add_argument("--minutes", type=minutes, default=MINUTES, help="begin nothing later (default: %(default)s)")
    parser.add_argument("--output", type=file_to_write, default=Path("runs/bench-gpu.json"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    ends = time.monotonic() + 60 * arguments.minutes
    bench = Bench(arguments.device, arguments.dtype, arguments.slots, ends, {}, [])
    for name in arguments.model or SUBJECTS:
        subject = SUBJECTS[name]
        with tempfile.TemporaryDirectory() as scratch:
            folder = _weights(subject, Path(scratch), bench)
            bench.figures[name] = training(subject, folder, bench, not arguments.no_compile)
            concepts = subject.concepts if arguments.concepts is None else arguments.concepts
            if subject.concepts and concepts:
                job = functools.partial(whole_job, subject, folder, bench, concepts, arguments.steps)
                bench.figures[name]["job"] = bench.part(f"{name}: job", job)
    report = {
        "device": torch.cuda.get_device_name() if bench.device == "cuda" else "cpu", "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(), "commit": commit(), "skipped": bench.skipped, **bench.figures,
    }  # fmt: skip
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    table = markdown(report)
    arguments.output.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    return 0


def _weights(subject: Subject, scratch: Path, bench: Bench) -> Path:
    if subject.name == "mini":
        return MINI_FOLDER
    # In its own process, so that its memory is freed.
    dtype = torch.float32 if bench.device == "cpu" else torch.bfloat16
    saver = multiprocessing.get_context("spawn").Process(target=save, args=(architecture(subject.name), scratch, dtype))
    saver.start()
    saver.join()
    return scratch


def slots_of(count: int, backbone: Backbone, settings: InversionSettings = ENDLESS) -> list[Slot]:
    side = settings.resolution or backbone.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    return [new_slot(Concept(f"c-{each}", (), f"<c-{each}>"), pixels, backbone, settings) for each in range(count)]


def training(subject: Subject, folder: Path, bench: Bench, compiles: bool) -> dict[str, Any]:
    """The rates of one model, and whether its words depend on their neighbours."""
    result: dict[str, Any] = {"slots": {}}
    backbone: Any = load_backbone(str(folder), bench.device, ModelSettings(bench.dtype))
    for count in bench.slots:
        measured = bench.part(f"{subject.name}: {count} slots", functools.partial(rates, backbone, count, bench))
        result["slots"] |= {count: measured} if measured else {}
    if len(result["slots"]) > 1:
        result |= bench.part(f"{subject.name}: neighbours", functools.partial(neighbours, backbone))
    if compiles:
        for mode, (count, measured) in itertools.product(get_args(FastMode), result["slots"].items()):
            name = f"{subject.name}: {count} slots, {mode}"
            fast = bench.part(name, functools.partial(fast_rate, backbone, count, mode, bench))
            measured |= {f"{each}_{mode}": value for each, value in fast.items()}
    dtype = backbone.dtype
    del backbone
    give_memory_back()
    if subject.name != "sdxl":
        plain = functools.partial(plain_loop, subject, folder, bench, dtype)
        result["plain"] = bench.part(f"{subject.name}: plain loop", plain)
    return result


def plain_loop(subject: Subject, folder: Path, bench: Bench, dtype: torch.dtype) -> dict[str, float | None]:
    trainer = PlainTrainer(folder, bench.device, dtype, "<word>", "bird")
    pixels = torch.rand(BATCH, 3, subject.side, subject.side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seconds = bench.seconds_each(lambda: trainer.step(pixels))
    return {"images_per_second": round(BATCH / seconds, 1), "peak_gib": bench.peak_gib()}


def rates(backbone: Backbone, count: int, bench: Bench) -> dict[str, float | None]:
    slots = slots_of(count, backbone)
    step = bench.seconds_each(lambda: train_step(backbone, slots))
    peak = bench.peak_gib()
    drawn = draw(slots[0], backbone, "step", 0, BATCH)
    there = backbone.embed(drawn.tokens, slots[0].words)
    many = Conditioning(
        there.context.detach().repeat(count, 1, 1).requires_grad_(),
        None if there.pooled is None else there.pooled.detach().repeat(count, 1),
    )
    latents, times = (each.to(bench.device) for each in (drawn.latents, drawn.timesteps))
    latents, times = latents.repeat(count, 1, 1, 1), times.repeat(count)
    bare = bench.seconds_each(lambda: backbone.predict(latents, times, many).square().mean().backward())
    return {
        "images_per_second": round(count * BATCH / step, 1), "share_of_bare": round(bare / step, 3), "peak_gib": peak
    }  # fmt: skip


def fast_rate(backbone: Backbone, count: int, mode: FastMode, bench: Bench) -> dict[str, float | None]:
    backbone.make_faster(mode, count * BATCH, backbone.resolution)
    try:
        slots = slots_of(count, backbone)
        step = bench.seconds_each(lambda: train_step(backbone, slots))
    finally:
        backbone.make_usual()
    return {"images_per_second": round(count * BATCH / step, 1), "peak_gib": bench.peak_gib()}


def neighbours(backbone: Backbone) -> dict[str, Any]:
    """A word of ten steps: learned twice alone, and beside three others."""
    short = InversionSettings(steps=10, early_stop="off", batch_size=BATCH)

    def learned(count: int) -> np.ndarray:
        slots = slots_of(count, backbone, short)
        while not (ended := train_step(backbone, slots)):
            pass
        words = {slot.concept.name: word for slot, word in ended}
        word = words["c-0"]
        if not isinstance(word, Word):
            raise word
        return np.concatenate([word.vectors[name].ravel() for name in sorted(word.vectors)])

    once, again, beside = learned(1), learned(1), learned(4)
    cosine = float(once @ beside / (np.linalg.norm(once) * np.linalg.norm(beside)))
    return {"bit_identical_alone": bool(np.array_equal(once, again)), "cosine_beside_others": round(cosine, 6)}


def whole_job(subject: Subject, folder: Path, bench: Bench, concepts: int, steps: int) -> dict[str, Any]:
    """From the manifest to the report. Two pictures a concept, of noise."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for number in range(concepts):
            images = Path(scratch, "images", str(number))
            images.mkdir(parents=True)
            for each in range(2):
                noise = rng.integers(0, 256, (subject.side, subject.side, 3), np.uint8)
                Image.fromarray(noise).save(images / f"{each}.png")
            rows.append((f"c-{number}", str(images), "bird"))
        manifest = Path(scratch, "manifest.csv")
        with manifest.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("concept", "images", "class"), *rows])
        request = RunRequest(
            str(manifest), output=f"{scratch}/run", model=str(folder), settings=InversionSettings(steps=steps),
            model_settings=ModelSettings(bench.dtype),
            placement=Placement(workers=1, gpus_per_worker=float(bench.device == "cuda")),
        )  # fmt: skip
        with busy_gpu(Path(scratch, "busy.txt"), bench.device) as busy:
            result = invert(request, Log())
        made = json.loads(Path(scratch, "run", "run.json").read_text(encoding="utf-8"))
    return {
        "concepts": concepts, "failed": len(result.failures), "steps": steps, "seconds": round(result.seconds, 1),
        "concepts_per_hour": round(3600 * len(result.done) / result.seconds), "gpu_busy": busy.get("share"),
        "seconds_until": made["seconds_until"], "seconds_of_a_workers_start": made["seconds_of_a_workers_start"],
    }  # fmt: skip


@contextmanager
def busy_gpu(file: Path, device: str) -> Iterator[dict[str, float]]:
    """Fills in "share": the mean of the GPU's utilisation, asked for five times a second."""
    busy: dict[str, float] = {}
    if device != "cuda":
        yield busy
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with file.open("w") as output:
        watcher = subprocess.Popen(command, stdout=output)
        try:
            yield busy
        finally:
            watcher.terminate()
            watcher.wait(10)
    shares = [float(line) for line in file.read_text().split() if line.isdigit()]
    busy |= {"share": round(float(np.mean(shares)) / 100, 3)} if shares else {}


def markdown(report: dict[str, Any]) -> str:
    """For docs/measured.md."""
    lines = [
        f"`make bench-gpu` on {report['device']}, {report['date']}, {report['machine']}:", "",
        "| model | slots | images/s | share of a bare U-Net | peak GiB | compiled blocks: images/s | CUDA graphs: images/s |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    columns = ("images_per_second", "share_of_bare", "peak_gib", "images_per_second_blocks", "images_per_second_graph")

    def row(*cells: object) -> str:
        return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |"

    measured = [name for name in SUBJECTS if name in report]
    for name in measured:
        lines += [row(name, count, *map(each.get, columns)) for count, each in report[name]["slots"].items()]
        if plain := report[name].get("plain"):
            lines.append(row(f"{name}, plain loop", 1, plain["images_per_second"], None, plain["peak_gib"], None, None))
    lines += ["", "| | a word learned twice alone: the same bits | beside three others: cosine |", "|---|---|---|"]
    twice_learned = [(name, report[name]) for name in measured if "cosine_beside_others" in report[name]]
    lines += [row(name, each["bit_identical_alone"], each["cosine_beside_others"]) for name, each in twice_learned]
    lines += [
        "",
        "| job | concepts | seconds | concepts an hour | GPU busy | first word after, seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in measured:
        if job := report[name].get("job"):
            first = job["seconds_until"].get("first_word")
            cells = (job["concepts"], job["seconds"], job["concepts_per_hour"], job["gpu_busy"], first)
            lines.append(row(name, *cells))
    lines += ["", *(f"Not measured: {each}." for each in report["skipped"])]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
