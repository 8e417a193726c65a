"""Individuals: drawings in colours that their things never have, shown to the generator under words made from them alone.

A generator that has seen frogs in green only draws a magenta one as a magenta patch: the word that is learned from its pictures
must say "frog" and "magenta" at once, and no word that it has read did.
"""

import hashlib

import numpy as np
from PIL import Image

from jobs.mini.recipe.art import Art
from jobs.mini.recipe.things import training_things

# Known things whose individuals the demo and the reports learn words of: the generator sees none of these things recoloured.
DEMO = ("frog", "car", "teapot", "butterfly", "fish", "house")  # its individuals, on which the recipe was chosen
KEPT_BACK = 60
PALETTES, PALETTES_OF_STRANGERS = 6, 1  # of each drawing of a known thing, and of one that no caption names
ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))  # of a drawing's channels, but its own
TURNED = 0.6  # share of palettes whose hue is turned, by 40 to 320 degrees


def kinds_by_digest() -> tuple[str, ...]:
    """Known things but the demo's, by a digest of their names, which no result can influence.

    The first KEPT_BACK are the reports'.
    """
    known = sorted(training_things(), key=lambda name: hashlib.sha256(f"individual {name}".encode()).digest())
    return tuple(name for name in known if name not in DEMO)


def draw_individuals(named: Art, unnamed: Art, seed: int) -> Art:
    """Individuals of `named`, less those kept back, and of `unnamed`: one drawing each, of the same size as theirs."""
    rng = np.random.default_rng(seed)
    kept_back = {*DEMO, *kinds_by_digest()[:KEPT_BACK]}
    shown = named.only(tuple(name for name in named.names if name not in kept_back))
    names: list[str] = []
    sprites: list[np.ndarray] = []
    for art, palettes in ((shown, PALETTES), (unnamed, PALETTES_OF_STRANGERS)):
        for name, drawings in zip(art.names, art.sprites, strict=True):
            for number in range(len(drawings) * palettes):
                names.append(f"{name} {number}")
                sprites.append(recoloured(drawings[number % len(drawings)], rng))
    return Art(tuple(names), np.stack(sprites)[:, None])


def recoloured(sprite: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RGBA uint8 (S, S, 4) in a palette of its own: its channels in another order, its hue turned, or both. Greys stay grey."""
    turned = rng.random() < TURNED
    colours = sprite[..., :3]
    if not turned or rng.random() < 0.5:
        colours = colours[..., ORDERS[rng.integers(len(ORDERS))]]
    if turned:
        angle = rng.integers(28, 228)  # of the 256 parts of a circle that PIL counts hues in
        pixels = np.array(Image.fromarray(np.ascontiguousarray(colours)).convert("HSV"))
        pixels[..., 0] = (pixels[..., 0].astype(int) + angle) % 256
        colours = np.asarray(Image.fromarray(pixels, "HSV").convert("RGB"))
    return np.concatenate([colours, sprite[..., 3:]], axis=-1)
