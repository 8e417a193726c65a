"""Holds what a configuration states about a model's size to the weights beside it, before memory is allocated for it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import PreTrainedModel

from pipeline.models.configuration import ConfigurationError
from pipeline.models.single_file.conversion import empty_part

# A tied table counts twice, and buffers such as positions stand in no file: FREE numbers are 64 MB in float32.
TIMES, FREE, FREE_TENSORS = 2, 16_000_000, 1_000


def refuse_outsized(kind: type[Any], folder: Path, files: Iterable[Path]) -> None:
    """kind: a class of diffusers or transformers. files: its weights. Raises ConfigurationError for a model that is larger than
    they are, and what the library raises for a configuration that is none of its own.
    """
    refuse_outsized_build(lambda: _built(kind, folder), folder / "config.json", files)


def refuse_outsized_build(build: Callable[[], object], configuration: Path, files: Iterable[Path]) -> None:
    """build: makes the model of this configuration. It is called on the meta device, where numbers take no memory, and left at the
    first that is too many. Raises ConfigurationError, and what `build` raises.
    """
    stored = [size for file in files for size in _sizes_in(file)]
    most, most_tensors = TIMES * sum(stored) + FREE, TIMES * len(stored) + FREE_TENSORS
    with torch.device("meta"), _counted(most, most_tensors) as counted:
        try:
            build()
        finally:  # a library may have made another error of ours
            if counted.numbers > most or counted.tensors > most_tensors:
                raise ConfigurationError(
                    f"{configuration} states a model of over {most:,} numbers in {most_tensors:,} tensors, and its weights "
                    f"hold {sum(stored):,} in {len(stored):,}"
                ) from None


@dataclass(slots=True)
class _Counted:
    numbers: int = 0
    tensors: int = 0


@contextmanager
def _counted(most: int, most_tensors: int) -> Iterator[_Counted]:
    """Counts what modules made by this thread take for weights and buffers. Ends their making above the limits."""
    counted, thread = _Counted(), threading.get_ident()

    def count(_: object, name: str, value: Tensor | None) -> None:
        if value is not None and threading.get_ident() == thread:
            counted.numbers += value.numel()
            counted.tensors += 1
            if counted.numbers > most or counted.tensors > most_tensors:
                raise ConfigurationError(f"{name} is too many")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def _built(kind: Any, folder: Path) -> Any:
    if hasattr(kind, "from_config") and not issubclass(kind, PreTrainedModel) and not hasattr(kind, "load_config"):
        from transformers import AutoConfig  # an Auto class

        return kind.from_config(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    return empty_part(kind, folder)


def _sizes_in(file: Path) -> list[int]:
    with safe_open(file, "pt") as opened:
        shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
    return [torch.Size(shape).numel() for shape in shapes]
