"""compile_choice.py: what --compile auto keeps, and what it says when nothing can be made faster."""

from pathlib import Path

import pytest
import torch

from pipeline.models.base import Backbone
from pipeline.models.fast_passes import NotFasterError
from pipeline.models.load import load_backbone
from pipeline.scheduling import compile_choice
from pipeline.scheduling.compile_choice import AS_USUAL, make_faster
from pipeline.settings import Compile, InversionSettings

SETTINGS = InversionSettings(steps=1000, batch_size=2)


class Machine:
    """Rates of a step as usual, with compiled blocks and with graphs; an error instead where that cannot be had."""

    def __init__(self, usual: float, blocks: float | Exception, graph: float | Exception) -> None:
        self.rates: dict[str, float | Exception] = {"usual": usual, "blocks": blocks, "graph": graph}
        self.now, self.batches, self.said = "usual", list[int](), list[tuple[str, str]]()

    def make_faster(self, mode: str, batch: int, resolution: int) -> None:
        self.batches.append(batch)
        found = self.rates[mode]
        if isinstance(found, Exception):
            raise found
        self.now = mode

    def make_usual(self) -> bool:
        before, self.now = self.now, "usual"
        return before != "usual"

    def rate(self, backbone: Backbone, settings: InversionSettings, slots: int) -> float:
        found = self.rates[self.now]
        assert isinstance(found, float)
        return found

    def tell(self, cause: str, action: str) -> None:
        self.said.append((cause, action))


@pytest.fixture
def backbone(epsilon_model: Path) -> Backbone:
    return load_backbone(str(epsilon_model))


NO_COMPILER, FULL = NotFasterError("RuntimeError: no C compiler"), torch.OutOfMemoryError("injected")


@pytest.mark.parametrize(
    ("machine", "compile", "concepts", "kept", "said"),
    [
        (Machine(10.0, 12.0, 15.0), "auto", 100, "graph", []),
        (Machine(10.0, 16.0, 15.0), "auto", 100, "blocks", []),
        (Machine(10.0, 10.4, 9.0), "auto", 100, "usual", []),  # not worth the memory
        (Machine(10.0, 12.0, 15.0), "auto", 5, "usual", []),  # 500 seconds of training
        (Machine(10.0, NO_COMPILER, 15.0), "auto", 100, "graph", ["--compile blocks: RuntimeError: no C compiler"]),
        (
            Machine(10.0, 12.0, FULL),
            "auto",
            100,
            "blocks",
            ["--compile graph: it does not fit into the device's memory"],
        ),
        (Machine(10.0, NO_COMPILER, 9.0), "blocks", 1, "usual", ["--compile blocks: RuntimeError: no C compiler"]),
        (Machine(10.0, 9.0, 9.0), "graph", 1, "graph", []),
        (Machine(10.0, 99.0, 99.0), "off", 100, "usual", []),
    ],
)
def test_what_is_faster_is_kept_and_what_cannot_be_had_is_said(
    machine: Machine, compile: Compile, concepts: int, kept: str, said: list[str], backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("make_faster", "make_usual"):
        monkeypatch.setattr(backbone, name, getattr(machine, name))
    monkeypatch.setattr(compile_choice, "step_rate", machine.rate)
    make_faster(backbone, SETTINGS, 4, compile, concepts, machine.tell)
    assert machine.now == kept
    assert machine.said == [(cause, AS_USUAL) for cause in said]
    assert set(machine.batches) <= {8}, "four slots of two pictures"
