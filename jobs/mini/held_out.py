"""Writes a manifest of things that the shipped model was not trained on, to measure words on."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from eval.judges.clip import ClipScorer
from jobs.mini.recipe import art, things

PAGE, DRAWN = 256, 208  # pixels


def write_manifest(drawings: art.Art, names: tuple[str, ...], folder: Path, clip: ClipScorer | None = None) -> Path:
    """The drawings of each thing on white at 256 pixels, and a manifest of them.

    clip: finds each thing's class, the most similar thing that the model was trained on. The thing's own name, which was in no
    caption, goes into the column `description`. None: no class, so words start from the vocabulary's mean.
    """
    rows = []
    for name in names:
        slug = name.replace(" ", "-")
        (folder / slug).mkdir(parents=True, exist_ok=True)
        pages = []
        for index, sprite in enumerate(drawings.only((name,)).sprites[0]):
            page = Image.new("RGBA", (PAGE, PAGE), "white")
            small = Image.fromarray(sprite).resize((DRAWN, DRAWN), Image.Resampling.LANCZOS)
            page.alpha_composite(small, ((PAGE - DRAWN) // 2,) * 2)
            pages.append(page.convert("RGB"))
            pages[-1].save(folder / slug / f"{index + 1}.png")
        rows.append({"concept": slug, "images": slug})
        if clip is not None:
            rows[-1] |= {"class": _class_of(pages, clip), "description": name}
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def _class_of(pages: list[Image.Image], clip: ClipScorer) -> str:
    known = things.training_things()
    texts = clip.encode_texts([f"a photo of {name}" for name in known])
    nearest: int = int(np.argmax(texts @ clip.encode_images(pages).mean(axis=0)))
    return known[nearest]
