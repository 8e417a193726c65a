"""How many concepts a worker trains at once: measured on the machine it runs on."""

import time
from dataclasses import replace

import numpy as np
import torch

from pipeline.models.base import Backbone
from pipeline.records import Concept
from pipeline.settings import MOST_SLOTS, InversionSettings
from pipeline.training.inversion import new_slot, train_step

CANDIDATES = (1, 2, 4, 8, MOST_SLOTS)
GAIN = 1.15  # doubling the slots is worth its memory, and a later first result, if it makes so much of the rate
MEMORY_SHARE = 0.8  # of a GPU: sampling and the neighbours' first stage need room as well
WARM_UP, COUNTED = 1, 3


def measure_slots(backbone: Backbone, settings: InversionSettings) -> int:
    """The largest of 1, 2, 4, 8, 16 for which each doubling was worth it; 1 where a second concept does not fit."""
    best, best_rate = 1, 0.0
    for count in CANDIDATES:
        try:
            rate = _rate(backbone, settings, count)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if rate < GAIN * best_rate or not _fits(backbone.device):
            break
        best, best_rate = count, rate
    return best


def _rate(backbone: Backbone, settings: InversionSettings, count: int) -> float:
    """Concept-steps a second with that many concepts in the batch."""
    side = settings.resolution or backbone.resolution
    pixels = np.full((1, side, side, 3), 127, np.uint8)
    endless = replace(settings, steps=1_000_000, early_stop="off")
    slots = [
        new_slot(
            Concept(name=f"measured-{number}", images=(), placeholder=f"<measured-{number}>"), pixels, backbone, endless
        )
        for number in range(count)
    ]
    for _ in range(WARM_UP):
        train_step(backbone, slots)
    _wait_for(backbone.device)
    began = time.perf_counter()
    for _ in range(COUNTED):
        train_step(backbone, slots)
    _wait_for(backbone.device)
    return COUNTED * count / (time.perf_counter() - began)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fits(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    return torch.cuda.max_memory_reserved(device) < MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
