"""How many concepts a worker trains at once, and how many pictures it draws: measured on the machine it runs on."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from pipeline.models.base import Backbone
from pipeline.models.device_memory import full_memory, give_memory_back
from pipeline.protocols import Protocol
from pipeline.records import Concept
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import MOST_SLOTS, CheckpointGradients, InversionSettings
from pipeline.training.inversion import new_slot, train_step

CANDIDATES = tuple(2**power for power in range(MOST_SLOTS.bit_length()) if 2**power <= MOST_SLOTS)
GAIN = 1.15  # more slots cost memory and delay the first result; they must raise the rate by this factor
MEMORY_SHARE = 0.8  # of a GPU: sampling and the neighbours' first stage need room as well
SEARCH_SHARE = 0.05  # of the training's seconds: a short run starts sooner with fewer slots
# The first steps choose kernels and allocate memory. The median of the next ones is robust to a single slow step.
WARM_UP, FEWEST, MOST, SECONDS = 2, 3, 15, 0.5


def measure_slots(
    backbone: Backbone,
    settings: InversionSettings,
    checkpoint_gradients: CheckpointGradients = "auto",
    concepts: int = MOST_SLOTS,
) -> int:
    """The fewest of 1, 2, 4, ... slots whose rate is within GAIN of the best that fits into memory.

    concepts: how many the worker will train, about. The search ends at that many, or when it has taken a SEARCH_SHARE of
    their training.
    If memory ends the search, "auto" measures again with gradient checkpointing and keeps it on if that is faster.
    """
    backbone.checkpoint_gradients(checkpoint_gradients == "on")
    rates, full = _rates(backbone, settings, concepts)
    if full and checkpoint_gradients == "auto":
        backbone.checkpoint_gradients(True)
        longer, _ = _rates(backbone, settings, concepts)
        if longer and max(longer.values()) >= GAIN * max(rates.values(), default=0.0):
            rates = longer
        else:
            backbone.checkpoint_gradients(False)
    return fewest_worth_it(rates)


def fewest_worth_it(rates: dict[int, float]) -> int:
    """rates: slots -> concept-steps a second. 1 where nothing could be measured.

    >>> (
    ...     fewest_worth_it({1: 10.0, 2: 19.0, 4: 36.0, 8: 39.0}),
    ...     fewest_worth_it({1: 10.0, 2: 9.0, 4: 20.0}),
    ...     fewest_worth_it({}),
    ... )
    (4, 4, 1)
    """
    best = max(rates.values(), default=0.0)
    return min((count for count, rate in rates.items() if rate * GAIN >= best), default=1)


def _rates(backbone: Backbone, settings: InversionSettings, concepts: int) -> tuple[dict[int, float], bool]:
    """(slots -> concept-steps a second, whether memory ended the search). Stops after two doublings without a gain."""
    rates: dict[int, float] = {}
    began = time.monotonic()
    for count in CANDIDATES:
        if rates:
            training = concepts * settings.steps / max(rates.values())
            if count > concepts or time.monotonic() - began > SEARCH_SHARE * training:
                break
        try:
            rate = step_rate(backbone, settings, count)
        except torch.OutOfMemoryError:
            rate = None
        # Outside the handler, whose error holds the step's tensors.
        full = rate is None or not _fits(backbone.device)
        if full:
            give_memory_back()
        if rate is None or (full and rates):
            return rates, True
        rates[count] = rate
        if full:
            return rates, True
        if len(rates) > 2 and rate < GAIN * rates[count // 4]:
            break
    return rates, False


@full_memory()
def step_rate(backbone: Backbone, settings: InversionSettings, count: int) -> float:
    """Concept-steps a second with `count` concepts in the batch."""
    side = settings.resolution or backbone.resolution
    pixels = np.full((1, side, side, 3), 127, np.uint8)
    endless = replace(settings, steps=1_000_000, early_stop="off")
    slots = [
        new_slot(
            Concept(name=f"measured-{number}", images=(), placeholder=f"<measured-{number}>"), pixels, backbone, endless
        )
        for number in range(count)
    ]
    seconds: list[float] = []
    while len(seconds) < WARM_UP + FEWEST or (len(seconds) < WARM_UP + MOST and sum(seconds) < SECONDS):
        began = time.perf_counter()
        train_step(backbone, slots)
        _wait_for(backbone.device)
        seconds.append(time.perf_counter() - began)
    return count / float(np.median(seconds[WARM_UP:]))


def measure_pictures(backbone: Backbone, protocol: Protocol, resolution: int | None) -> int | None:
    """How many pictures are drawn at once in the memory that the slots leave. None on a CPU, where it is not measured."""
    if backbone.device.type != "cuda":
        return None
    room = (1 - MEMORY_SHARE) * torch.cuda.get_device_properties(backbone.device).total_memory

    def taken(count: int) -> float:
        give_memory_back()
        before = torch.cuda.memory_allocated(backbone.device)
        settings = SamplerSettings(protocol.sampler, 2, protocol.guidance, batch=count)
        sample(backbone, [""] * count, range(count), {}, settings, resolution)
        return torch.cuda.max_memory_allocated(backbone.device) - before

    pictures = most_that_fit(taken, room)
    give_memory_back()
    return pictures


def most_that_fit(taken: Callable[[int], float], room: float) -> int:
    """The largest of 1, 2, 4, ... MOST_SLOTS that takes at most `room` bytes; 1 if none does.

    >>> most_that_fit(lambda count: 3.0 * count, 20.0)
    4
    """
    best = 1
    for count in CANDIDATES:
        try:
            with full_memory():
                too_much = taken(count) > room
            if too_much:
                break
        except torch.OutOfMemoryError:
            break
        best = count
    return best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fits(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    return torch.cuda.max_memory_reserved(device) < MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
