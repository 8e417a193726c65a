"""best_of.py: the picture that shows the sentence and looks like the word comes first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from eval.judges.best_of import best_first
from eval.judges.clip import load_clip
from eval.judges.judge import Features
from jobs.demo.make_concepts import HERE


class Axes:
    """A judge to whom a picture is its first pixel's three colours, and every text says "red"."""

    name, fingerprint = "axes", ""

    def encode_images(self, pictures: Sequence[Any]) -> Features:
        rows = np.array([np.asarray(each)[0, 0] for each in pictures], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_texts(self, texts: Sequence[str]) -> Features:
        return np.array([[1.0, 0.0, 0.0] for _ in texts], np.float32)


def colour(*rgb: int) -> np.ndarray:
    return np.full((2, 2, 3), rgb, np.uint8)


def test_both_measures_count_alike() -> None:
    red, green, both = colour(255, 1, 1), colour(1, 255, 1), colour(200, 200, 1)
    blue = colour(1, 1, 255)
    assert best_first(Axes(), [blue, green, both, red], "red", [])[0] == 3
    assert best_first(Axes(), [blue, green, both, red], "red", [[green]])[0] == 2
    assert best_first(Axes(), [blue, green, both, red], "red", [[green]])[-1] == 0


def test_pictures_that_the_judge_cannot_tell_apart_stay_in_their_order() -> None:
    assert best_first(Axes(), [colour(9, 9, 9)] * 3, "red", [[colour(1, 2, 3)]]) == [0, 1, 2]


def pictures(name: str) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted((HERE / "images" / name).iterdir())[:3]]


def test_the_shipped_judge_puts_a_words_own_picture_first() -> None:
    own, other = pictures("taxi"), pictures("owl")
    assert best_first(load_clip(), [other[0], own[0], other[1]], "a photo of a car", [own[1:]])[0] == 1
