"""Every setting that changes a word, validated where it is made and saved with the output."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

CropMode = Literal["centre", "pad", "squash"]
EarlyStop = Literal["dvar", "off"]


@dataclass(frozen=True, slots=True)
class InversionSettings:
    """How a word is trained.

    steps: the budget of optimiser steps. batch_size: pictures a step.
    learning_rate: as AdamW sees it; nothing rescales it. weight_decay: 0, because decay shrinks the word itself.
    resolution: side of the training pictures in pixels; None is the model's own.
    early_stop: "dvar" is the criterion of Voronov et al. 2023 (early_stopping.py).
    seed: of every draw, together with the concept's name, the purpose and the step.

    Raises ValueError naming the setting, its value and what is allowed.
    """

    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    resolution: int | None = None
    crop: CropMode = "centre"
    flip: bool = True
    early_stop: EarlyStop = "dvar"
    seed: int = 0
    minimum_images: int = 1

    def __post_init__(self) -> None:
        _require(1 <= self.steps <= 1_000_000, "steps", self.steps, "a whole number from 1 to 1,000,000")
        _require(1 <= self.batch_size <= 1024, "batch size", self.batch_size, "a whole number from 1 to 1,024")
        _require(0 < self.learning_rate < 10, "learning rate", self.learning_rate, "above 0 and below 10")
        _require(0 <= self.weight_decay < 1, "weight decay", self.weight_decay, "from 0 up to, not including, 1")
        _require(
            self.resolution is None or (self.resolution % 8 == 0 and 32 <= self.resolution <= 2048),
            "resolution",
            self.resolution,
            "a multiple of 8 from 32 to 2,048",
        )
        _require(self.crop in ("centre", "pad", "squash"), "crop", self.crop, "centre, pad or squash")
        _require(self.early_stop in ("dvar", "off"), "early stop", self.early_stop, "dvar or off")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        _require(self.minimum_images >= 1, "minimum images", self.minimum_images, "at least 1")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")
