"""A whole job, from a manifest to the report, of concepts whose pictures are noise."""

import csv
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.bench.gpu.busy_gpu import Busy, watched
from jobs.bench.gpu.gpu_rates import Subject
from jobs.bench.gpu.time_budget import Bench, TimeIsUpError
from pipeline.models.find import MINI
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.training.recipes import recipe_of

PICTURES = 2  # a concept


def whole_job(subject: Subject, folder: Path, bench: Bench, concepts: int, steps: int | None) -> dict[str, Any]:
    """steps: of each word; None for the mini model's recipe, or InversionSettings' 200. A job that takes too long is cut short,
    and says how far it came.
    """
    # Ray, and what scores the pictures: a machine without them measures all else.
    from jobs.api import Placement, RunRequest, invert
    from jobs.cli.log import Log

    settings = recipe_of(MINI) if subject.name == MINI else InversionSettings()
    settings = settings if steps is None else replace(settings, steps=steps)
    with tempfile.TemporaryDirectory() as scratch:
        request = RunRequest(
            str(_manifest(subject, Path(scratch), concepts)), output=f"{scratch}/run",
            model=MINI if subject.name == MINI else str(folder), settings=settings,
            model_settings=ModelSettings(bench.dtype),
            placement=Placement(workers=1, gpus_per_worker=float(bench.device == "cuda")),
        )  # fmt: skip
        began = time.monotonic()
        with watched() as busy:
            try:
                result = invert(request, Log())
            except TimeIsUpError:
                return _cut_short(Path(scratch, "run"), concepts, time.monotonic() - began, busy)
        made = json.loads(Path(scratch, "run", "run.json").read_text(encoding="utf-8"))
    reached = made["seconds_until"]
    return {
        "concepts": concepts, "failed": len(result.failures), "steps": settings.steps, "seconds": round(result.seconds, 1),
        "concepts_per_hour": round(3600 * len(result.done) / result.seconds),
        "gpu_busy": busy.share(reached.get("training", 0.0), reached["last_word"]),
        "gpu_busy_of_all": busy.share(0, result.seconds),
        "seconds_until": reached, "seconds_of_a_workers_start": made["seconds_of_a_workers_start"],
    }  # fmt: skip


def _manifest(subject: Subject, folder: Path, concepts: int) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(concepts):
        images = folder / "images" / str(number)
        images.mkdir(parents=True)
        for each in range(PICTURES):
            noise = rng.integers(0, 256, (subject.side, subject.side, 3), np.uint8)
            Image.fromarray(noise).save(images / f"{each}.png")
        rows.append((f"c-{number}", str(images), "bird"))
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("concept", "images", "class"), *rows])
    return manifest


def _cut_short(run: Path, concepts: int, seconds: float, busy: Busy) -> dict[str, Any]:
    """What the run folder says of a job that had no time to end."""
    done = len(list((run / "words").glob("*.safetensors")))
    return {
        "concepts": concepts, "cut_short_after": done, "seconds": round(seconds, 1),
        "concepts_per_hour": round(3600 * done / seconds), "gpu_busy": None, "gpu_busy_of_all": busy.share(0, seconds),
        "seconds_until": {}, "seconds_of_a_workers_start": {},
    }  # fmt: skip
