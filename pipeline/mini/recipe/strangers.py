"""Things that no caption names: about a thousand more emoji, shown to the generator under a word made from their drawings.

A model that has only read three hundred nouns can draw three hundred things; a new word then finds nothing between them.
See words_of_drawings.py for how a drawing becomes a word.
"""

import json
from pathlib import Path

import numpy as np

from pipeline.mini.recipe.art import ART_SETS, Art, draw, fetch_art
from pipeline.mini.recipe.things import held_out_things, things

PIXELS = 96
TOO_ALIKE = 0.93  # correlation of two drawings at 16 x 16


def load_strangers(folder: Path, art: Art) -> Art:
    """All emoji of a single code point that every art set draws and things.tsv does not name: 96 px, cached.

    Left out is what would give a held-out thing away: whatever shares a word with its name ("oncoming taxi"), or has a
    drawing that correlates with one of its drawings by more than TOO_ALIKE.
    """
    cached = folder / "strangers.npz"
    if not cached.exists():
        fetch_art(folder)
        named = _unnamed(folder)
        sprites = np.stack(
            [
                np.stack([np.asarray(draw(folder, art_set, code, PIXELS)) for art_set in ART_SETS])
                for code in named.values()
            ]
        )
        held_out = art.only(held_out_things()).scaled(PIXELS).sprites
        apart = _likeness(sprites, held_out) <= TOO_ALIKE
        names = np.array(list(named))[apart]
        np.savez(cached, names=names, sprites=sprites[apart])
    loaded = np.load(cached)
    return Art(tuple(str(name) for name in loaded["names"]), loaded["sprites"])


def _unnamed(folder: Path) -> dict[str, str]:
    """Icon name -> code point."""
    package = folder / "node_modules" / ART_SETS[0].package
    icons: dict[str, str] = json.loads((package / "chars.json").read_text(encoding="utf-8"))
    taken = {code.lower().removesuffix("-fe0f") for code in things().values()}
    given_away = {word for name in held_out_things() for word in name.replace("-", " ").split()}
    found = {}
    for spelling, name in sorted(icons.items()):
        code = spelling.removesuffix("-fe0f")
        if "-" in code or code in taken or given_away & set(name.split("-")):
            continue
        try:
            for art_set in ART_SETS:
                draw(folder, art_set, code, 8)
        except KeyError:
            continue
        found[name] = code
    return found


def _likeness(sprites: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The highest correlation of any of a thing's drawings with any of the others', float32 (things,)."""
    left, right = (_standardised(some) for some in (sprites, others))
    alike: np.ndarray = (left @ right.T).reshape(*sprites.shape[:2], -1).max((1, 2))
    return alike


def _standardised(sprites: np.ndarray) -> np.ndarray:
    """uint8 (things, drawings, 96, 96, 4) -> float32 (things x drawings, 16 x 16 x 3), on white, of unit norm."""
    flat = sprites.reshape(-1, *sprites.shape[2:]).astype(np.float32)
    alpha = flat[..., 3:] / 255
    page = flat[..., :3] * alpha + 255 * (1 - alpha)
    small = page.reshape(len(flat), 16, 6, 16, 6, 3).mean((2, 4)).reshape(len(flat), -1)
    small -= small.mean(1, keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
