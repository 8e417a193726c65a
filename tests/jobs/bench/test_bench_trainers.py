"""The plain trainer that ours is measured against has to be one: it learns the same word's row, and nothing else."""

from pathlib import Path

import pytest
import torch

from jobs.bench.bench_trainers import PlainTrainer
from pipeline.models.find import MINI_FOLDER
from tests.tiny_model import PIXELS, save_tiny_xl


@pytest.mark.parametrize("model", ["mini", "xl"])
def test_the_plain_trainer_trains_the_new_row_and_no_other(model: str, tmp_path: Path) -> None:
    """Catches a ratio against a trainer that does not do the work."""
    folder, side = (MINI_FOLDER, 64) if model == "mini" else (save_tiny_xl(tmp_path / "xl"), PIXELS)
    trainer = PlainTrainer(folder, "cpu", torch.float32, "<owl>", "cat")
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = [trainer.step(pixels) for _ in range(3)]
    assert len(trainer.encoders) == (1 if model == "mini" else 2)
    for encoder in trainer.encoders:
        moved = (encoder.table != encoder.before).any(-1).nonzero().flatten().tolist()
        assert moved == [encoder.row]
    assert all(0 < loss < 10 for loss in losses)
