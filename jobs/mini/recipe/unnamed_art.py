"""Things that no caption names: about a thousand more emoji, shown to the generator under a word made from their drawings.

A model trained on three hundred nouns can draw three hundred things; no vector between them gives a useful new word.
words_of_drawings.py makes the words of these drawings.
"""

import json
from pathlib import Path

import numpy as np

from jobs.mini.recipe.art import ART_SETS, Art, draw_thing, fetch_art
from jobs.mini.recipe.things import held_out_things, things
from jobs.mini.recipe.words_of_drawings import small_drawings

PIXELS = 96
TOO_ALIKE = 0.93  # correlation of two drawings at 16 x 16


def load_unnamed_art(folder: Path, art: Art) -> Art:
    """All emoji of a single code point that every art set draws and things.tsv does not name: 96 px, cached.

    Emoji similar to a held-out thing are left out: those that share a word with its name ("oncoming taxi"), or have a drawing that
    correlates with one of its drawings by more than TOO_ALIKE.
    """
    cached = folder / "unnamed.npz"
    if not cached.exists():
        fetch_art(folder)
        unnamed = _unnamed(folder)
        held_out = art.only(held_out_things()).scaled(PIXELS)
        apart = likeness(*(small_drawings(each).numpy() for each in (unnamed, held_out))) <= TOO_ALIKE
        np.savez(cached, names=np.array(unnamed.names)[apart], sprites=unnamed.sprites[apart])
    loaded = np.load(cached)
    return Art(tuple(str(name) for name in loaded["names"]), loaded["sprites"])


def _unnamed(folder: Path) -> Art:
    """Those of them that every art set draws, by their icons' names."""
    package = folder / "node_modules" / ART_SETS[0].package
    icons: dict[str, str] = json.loads((package / "chars.json").read_text(encoding="utf-8"))
    taken = {code.lower().removesuffix("-fe0f") for code in things().values()}
    given_away = {word for name in held_out_things() for word in name.replace("-", " ").split()}
    drawings = {}
    for spelling, name in sorted(icons.items()):
        code = spelling.removesuffix("-fe0f")
        if "-" in code or code in taken or given_away & set(name.split("-")):
            continue
        try:
            drawings[name] = draw_thing(folder, code, PIXELS)
        except KeyError:
            continue
    return Art(tuple(drawings), np.stack(list(drawings.values())))


def likeness(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The highest correlation of any of a thing's drawings (things, drawings, D) with any of the others', float32 (things,)."""
    left, right = (_standardised(some) for some in (looks, others))
    alike: np.ndarray = (left @ right.T).reshape(*looks.shape[:2], -1).max((1, 2))
    return alike


def _standardised(looks: np.ndarray) -> np.ndarray:
    """float32 (things x drawings, D), of unit norm."""
    rows = looks.reshape(-1, looks.shape[-1])
    rows = rows - rows.mean(1, keepdims=True)
    normal: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return normal
