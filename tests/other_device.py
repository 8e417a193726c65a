"""A device that is not the CPU, for tests without one: torch's meta device, and a note of all that crosses to it and back.

Nothing is computed there, but what is called, with which shapes, and what moves between the two memories is as on a GPU.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.training.inversion import Slot

OTHER = torch.device("meta")
# The size of their result depends on values, so that the host waits to know it.
BY_VALUE = {"aten.nonzero", "aten.masked_select", "aten.unique_dim", "aten._unique2", "aten.equal"}


class Crossings(TorchDispatchMode):
    """While it is entered: sent, asked. What comes back is zeros.

    sent: calls that copy from the CPU to the device, with the name of the call. asked: calls whose answer the host waits for.
    copied: of each copy that is told not to wait, its bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.asked: list[str] = []
        self.copied: list[int] = []
        self._made = _Made(self)

    def __enter__(self) -> "Crossings":
        self._made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = any(each.device == OTHER for each in given)
        # A single number of the CPU is an argument of the call, and no copy.
        here = [each for each in given if each.device.type == "cpu" and each.ndim]
        if name == "aten._local_scalar_dense" and there:
            self.asked.append(_told(name))
            return 0
        if name == "aten._to_copy" and (kwargs.get("device") or given[0].device) != given[0].device:
            if there:
                self.asked.append(_told(name))
                return torch.zeros(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
            if kwargs["device"] == OTHER:
                self._send(name, given[0], bool(kwargs.get("non_blocking")))
        elif here and there:
            self._send(name, here[0], False)
        if there and (name in BY_VALUE or _has_mask(name, args)):
            self.asked.append(_told(name))
        return func(*args, **kwargs)

    def _send(self, name: str, sent: Tensor, without_waiting: bool) -> None:
        if without_waiting:
            self.copied.append(sent.nbytes)
        else:
            self.sent.append(_told(name))


class _Made(TorchFunctionMode):
    """Tensors made on the device of Python's numbers, which dispatch does not see."""

    def __init__(self, crossings: Crossings) -> None:
        self.crossings = crossings

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == OTHER:
            self.crossings.sent.append(_told(f"torch.{func.__name__}"))
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == OTHER:
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, Sequence) and not isinstance(each, str) for each in places):
                self.crossings.sent.append(_told("an index that is a list"))
        return func(*args, **kwargs)


def _has_mask(name: str, args: Sequence[Any]) -> bool:
    masks = [each for each in tree_leaves(args[1:2]) if isinstance(each, Tensor)]
    return name.startswith("aten.index") and any(each.dtype in (torch.bool, torch.uint8) for each in masks)


def _told(name: str) -> str:
    """The call, and where it was made."""
    frames = [
        frame for frame in traceback.extract_stack() if "torch/" not in frame.filename and __file__ != frame.filename
    ]
    return f"{name} at " + " < ".join(f"{Path(each.filename).name}:{each.lineno}" for each in frames[:-4:-1])


def load_there(folder: Path) -> Backbone:
    return load_backbone(str(folder), str(OTHER))


def taken_there(slot: Slot) -> Slot:
    """A slot that was made by the same model on the CPU."""
    slot.words = {name: torch.nn.Parameter(rows.to(OTHER)) for name, rows in slot.words.items()}
    for tables in (slot.means, slot.squares, slot.anchors):
        tables |= {name: rows.to(OTHER) for name, rows in tables.items()}
    return slot
