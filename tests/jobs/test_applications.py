"""The command of docs/applications.md, with short trainings: its pictures and figures, and what inpainting leaves alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.demo import applications


def test_the_applications_are_drawn_and_their_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a word that diffusers' inpainting does not load, and a hole that is filled all over the picture."""
    kept: list[tuple[np.ndarray, list[np.ndarray], np.ndarray]] = []
    inpainted = applications.inpainted

    def watched(scene: np.ndarray, *others: object) -> tuple[list[np.ndarray], np.ndarray]:
        pictures, hole = inpainted(scene, *others)  # type: ignore[arg-type]
        kept.append((scene, pictures, hole))
        return pictures, hole

    monkeypatch.setattr(applications, "inpainted", watched)
    assert applications.main(["--output", str(tmp_path / "out"), "--steps", "1", "--pictures", "3"]) == 0
    told = json.loads((tmp_path / "out" / "applications.json").read_text())
    assert told["diversity_chosen"] > 0.1
    assert told["colours_chosen"] > told["colours_before"] >= 0
    with Image.open(tmp_path / "out" / "applications.webp") as page:
        assert page.height == 8 * (applications.TILE + applications.GAP)
    ((scene, pictures, hole),) = kept
    inside = (hole != scene).any(axis=2)
    for picture in pictures:
        away = np.abs(picture.astype(int) - scene).mean(axis=2)
        assert away[~inside][: len(scene)].mean() < 10 < away[inside].mean()
