"""The plain trainer that ours is measured against has to be one: it learns the same word's row, and nothing else."""

import torch

from jobs.bench.bench_trainers import PlainTrainer
from pipeline.models.find import MINI_FOLDER


def test_the_plain_trainer_trains_the_new_row_and_no_other() -> None:
    """Catches a ratio against a trainer that does not do the work."""
    trainer = PlainTrainer(MINI_FOLDER, "cpu", torch.float32, "<owl>", "bird")
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = [trainer.step(pixels) for _ in range(3)]
    moved = (trainer.table != trainer.before).any(-1).nonzero().flatten().tolist()
    assert moved == [trainer.row]
    assert all(0 < loss < 10 for loss in losses)
