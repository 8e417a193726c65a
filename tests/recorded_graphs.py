"""CUDA graphs without a GPU: torch's own make_graphed_callables, whose graphs are recorded and replayed call by call on the CPU.

As on a GPU, a replay sees the memory that its calls were captured with, and no Python. What a capture does not allow is refused.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.models import fast_passes

# What has the host wait for the device, and tensors made of Python's numbers, which would be copied to it.
FORBIDDEN = {"aten._local_scalar_dense", "aten.nonzero", "aten.lift_fresh"}


class RecordedGraph(TorchDispatchMode):
    """Records while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func.overloadpacket) in FORBIDDEN:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        if not self.calls:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        for func, args, kwargs, result in self.calls:
            for place, found in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != found.data_ptr():  # neither a view nor in place
                    place.copy_(found)


def record_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the rest of the test."""
    monkeypatch.setattr(fast_passes, "CAPTURES", "cpu")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: graph)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
