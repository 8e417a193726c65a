"""Writes a manifest of the three kinds of concepts that `make mini-report` and `jobs/compare.py` measure words on.

Individuals: things that the model knows, one drawing each in colours that it has not seen, in four poses; their class is the thing.
New kinds: things that no caption named, four drawings each. Styles: known things, redrawn by a filter. More pictures than four are
more poses of individuals and new kinds, and more things in a style.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from eval.judges.judge import ClipScorer
from jobs.mini.recipe import art, things
from jobs.mini.recipe.individuals import kinds_by_digest

INDIVIDUAL, NEW_KIND, STYLE = "individual", "new kind", "style"
PAGE = 256  # pixels
Pose = tuple[float, bool, float]  # size in widths, mirrored, degrees
POSES: tuple[Pose, ...] = ((0.9, False, 0), (0.8, True, 0), (0.84, False, 9), (0.76, True, 7))
COLOURS = ((1, 2, 0), (2, 1, 0), (1, 0, 2), (2, 0, 1))  # which channel of a drawing is red, green and blue
STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "negative": ImageOps.invert,
    "two-inks": lambda page: ImageOps.colorize(page.convert("L"), (16, 70, 60), (255, 214, 150)),
    "few-greens": lambda page: ImageOps.colorize(ImageOps.posterize(page.convert("L"), 2), (0, 40, 0), (190, 255, 150)),
    "heat": lambda page: ImageOps.colorize(page.convert("L"), (40, 0, 90), (255, 255, 180), (230, 60, 60)),
}


def write_three_kinds(
    drawings: art.Art,
    folder: Path,
    count: int,
    clip: ClipScorer | None = None,
    pictures: int = len(POSES),
    first: int = 0,
) -> Path:
    """count: of individuals, and of new kinds; each individual meets a new kind in pictures of two words.

    pictures: of each concept. first: how many individuals and new kinds are passed over. clip: finds the class of each new
    kind, the most similar thing that the model was trained on; None: they have no class. The column `thing` has the name of what
    is drawn, which in new kinds was in no caption.
    """
    rows: list[dict[str, str]] = []
    known, new = kinds_by_digest()[first:][:count], things.held_out_things()[first:][:count]
    for number, (name, other) in enumerate(zip(known, new, strict=True)):
        mine, partner = f"my-{_slug(name)}", _slug(other)
        _save(folder / mine, individual_pages(drawings, name, number, pictures))
        rows.append({"concept": mine, "class": name, "group": INDIVIDUAL, "partner": partner, "thing": name})
        pages = new_kind_pages(drawings, other, pictures)
        _save(folder / partner, pages)
        alike = class_of(pages, clip) if clip else ""
        rows.append({"concept": partner, "class": alike, "group": NEW_KIND, "partner": mine, "thing": other})
    for place, (style, redraw) in enumerate(STYLES.items()):
        shown = kinds_by_digest()[first + len(known) + pictures * place :][:pictures]
        _save(folder / style, [redraw(_page(drawings.only((name,)).sprites[0, 0])) for name in shown])
        rows.append({"concept": style, "class": "painting", "group": STYLE, "partner": "", "thing": ""})
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, ["concept", "images", "class", "kind", "group", "partner", "thing"])
        writer.writeheader()
        kinds = {STYLE: "style"}
        writer.writerows({**row, "images": row["concept"], "kind": kinds.get(row["group"], "object")} for row in rows)
    return folder / "manifest.csv"


def class_of(pages: list[Image.Image], clip: ClipScorer) -> str:
    """The most similar thing that the model was trained on."""
    known = things.training_things()
    texts = clip.encode_texts([f"a photo of {name}" for name in known])
    nearest: int = int(np.argmax(texts @ clip.encode_images(pages).mean(axis=0)))
    return known[nearest]


def individual_pages(drawings: art.Art, name: str, number: int, pictures: int = len(POSES)) -> list[Image.Image]:
    """One drawing of a thing in other colours, in several poses. number: chooses the drawing and the colours."""
    sprite = drawings.only((name,)).sprites[0, number % drawings.sprites.shape[1]]
    recoloured = sprite[..., [*COLOURS[number % len(COLOURS)], 3]]
    return [_page(recoloured, *pose(place)) for place in range(pictures)]


def new_kind_pages(drawings: art.Art, name: str, pictures: int = len(POSES)) -> list[Image.Image]:
    """All drawings of a thing, as they are; beyond them, in other poses."""
    sprites = drawings.only((name,)).sprites[0]
    first = [_page(each) for each in sprites[:pictures]]
    return first + [
        _page(sprites[place % len(sprites)], *pose(place - len(sprites) + 1)) for place in range(len(sprites), pictures)
    ]


def pose(place: int) -> Pose:
    """The first ones are POSES; the others go through sizes and turns, no two alike among the first 25.

    >>> pose(1), pose(4), len({pose(place) for place in range(25)})
    ((0.8, True, 0), (0.78, False, -5), 25)
    """
    if place < len(POSES):
        return POSES[place]
    return round(0.7 + 0.04 * (place * 2 % 6), 2), place % 2 == 1, place * 7 % 25 - 8


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _page(sprite: np.ndarray, size: float = 0.82, mirrored: bool = False, turn: float = 0) -> Image.Image:
    """The sprite, RGBA, in the middle of a white page."""
    image = Image.fromarray(np.ascontiguousarray(sprite))
    image = ImageOps.mirror(image) if mirrored else image
    side = round(PAGE * size)
    small = image.rotate(turn, Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (PAGE, PAGE), "white")
    page.alpha_composite(small, ((PAGE - side) // 2,) * 2)
    return page.convert("RGB")


def _save(folder: Path, pages: list[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(pages, 1):
        page.save(folder / f"{number}.png")
