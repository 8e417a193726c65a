"""Training steps of one model: rates and memory at any number of slots, as usual and faster, and whether words are the same."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.bench.bench_trainers import PlainTrainer
from jobs.bench.gpu.time_budget import Bench
from pipeline.models.base import Backbone, Conditioning
from pipeline.records import Concept, Word
from pipeline.settings import FastMode, InversionSettings
from pipeline.training.inversion import Slot, draw, new_slot, train_step

BATCH = 4
ENDLESS = InversionSettings(steps=1_000_000, early_stop="off", batch_size=BATCH)
FIRST_COMPILED = (8, 1)  # numbers of slots: each is compiled anew, which takes a minute


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure. side: of its pictures in pixels. concepts: of its whole job, 0 for none. share: of the time that is
    left when its turn comes.
    """

    name: str
    side: int
    concepts: int
    share: float


def slots_of(count: int, backbone: Backbone, settings: InversionSettings = ENDLESS) -> list[Slot]:
    side = settings.resolution or backbone.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    return [new_slot(Concept(f"c-{each}", (), f"<c-{each}>"), pixels, backbone, settings) for each in range(count)]


def measure_usual(subject: Subject, backbone: Backbone, bench: Bench, into: dict[str, Any]) -> None:
    """At every number of slots until the memory is full, and from there on with gradient checkpointing."""
    for count in bench.slots:
        into["slots"][count] = {}
        measure = functools.partial(rates, backbone, count, bench)
        if bench.part(f"{subject.name}: {count} slots", measure, into["slots"][count]):
            continue
        if "OutOfMemoryError" not in bench.skipped[-1] or not backbone.checkpoint_gradients(on=True):
            break
        into["slots"][count]["checkpointed"] = True
        if not bench.part(f"{subject.name}: {count} slots, checkpointed", measure, into["slots"][count]):
            break
    into["slots"] = {count: figures for count, figures in into["slots"].items() if "images_per_second" in figures}
    backbone.checkpoint_gradients(on=False)
    if len(into["slots"]) > 1:
        bench.part(f"{subject.name}: neighbours", functools.partial(neighbours, backbone), into)


def measure_faster(subject: Subject, backbone: Backbone, bench: Bench, mode: FastMode, into: dict[str, Any]) -> None:
    counts = [count for count, figures in into["slots"].items() if "checkpointed" not in figures]
    for count in sorted(counts, key=lambda count: (count not in FIRST_COMPILED, -count)):
        measure = functools.partial(fast_rate, backbone, count, mode, bench, into["slots"][count])
        bench.part(f"{subject.name}: {count} slots, {mode}", measure, into["slots"][count])
        backbone.make_usual()


def plain_rate(subject: Subject, folder: Path, bench: Bench, dtype: torch.dtype) -> dict[str, float | None]:
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
    pictures = count * BATCH
    return {
        "images_per_second": round(pictures / step, 1), "bare_images_per_second": round(pictures / bare, 1),
        "share_of_bare": round(bare / step, 3), "peak_gib": peak,
    }  # fmt: skip


def fast_rate(
    backbone: Backbone, count: int, mode: FastMode, bench: Bench, usual: dict[str, Any]
) -> dict[str, float | None]:
    """share_of_bare_...: of the bare rate as usual, neither compiled nor captured."""
    backbone.make_faster(mode, count * BATCH, backbone.resolution)
    slots = slots_of(count, backbone)
    rate = count * BATCH / bench.seconds_each(lambda: train_step(backbone, slots))
    return {
        f"images_per_second_{mode}": round(rate, 1), f"peak_gib_{mode}": bench.peak_gib(),
        f"share_of_bare_{mode}": round(rate / usual["bare_images_per_second"], 3),
    }  # fmt: skip


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
