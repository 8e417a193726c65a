"""Whether the frozen model is compiled or captured as CUDA graphs: as asked for, or by what is faster on this machine."""

from collections.abc import Callable

import torch

from pipeline.models.base import Backbone
from pipeline.models.device_memory import give_memory_back
from pipeline.models.fast_passes import NotFasterError
from pipeline.scheduling.slot_count import step_rate
from pipeline.settings import Compile, FastMode, InversionSettings

WORTH_SECONDS = 600.0  # of training; compiling takes about a minute
GAIN = 1.05
AS_USUAL = "the model runs as usual"
Tell = Callable[[str, str], None]  # what happened, what is done about it


def make_faster(
    backbone: Backbone, settings: InversionSettings, slots: int, compile: Compile, concepts: int, tell: Tell
) -> None:
    """With "auto", tries both if the training of the `concepts` takes WORTH_SECONDS, and keeps the faster one.

    tell: called with what cannot be done. Nothing is raised for it.
    """
    if compile == "off":
        return
    if compile != "auto":
        _try(backbone, settings, slots, compile, tell)
        return
    plain = step_rate(backbone, settings, slots)
    if concepts * settings.steps / plain < WORTH_SECONDS:
        return
    rates: dict[FastMode, float] = {}
    modes: tuple[FastMode, ...] = ("blocks", "graph")
    for mode in modes:
        if _try(backbone, settings, slots, mode, tell):
            rates[mode] = step_rate(backbone, settings, slots)
            backbone.make_usual()
    best = max(rates, key=lambda mode: rates[mode], default=None)
    if best is not None and rates[best] >= GAIN * plain:
        _try(backbone, settings, slots, best, tell)


def _try(backbone: Backbone, settings: InversionSettings, slots: int, mode: FastMode, tell: Tell) -> bool:
    try:
        backbone.make_faster(mode, slots * settings.batch_size, settings.resolution or backbone.resolution)
    except NotFasterError as error:
        tell(f"--compile {mode}: {error}", AS_USUAL)
    except torch.OutOfMemoryError:
        tell(f"--compile {mode}: it does not fit into the device's memory", AS_USUAL)
    else:
        return True
    give_memory_back()
    return False
