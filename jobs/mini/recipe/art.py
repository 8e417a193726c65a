"""Where the mini model's pictures come from: four free emoji drawings of each of 366 things.

    npm packages -> SVG/WebP -> RGBA sprites, cached as one .npz

The things themselves are listed in things.py.
"""

import functools
import io
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from jobs.mini.recipe.things import things

SPRITE_PIXELS = 256


@dataclass(frozen=True, slots=True)
class ArtSet:
    """One set of drawings: its npm package, pinned, and what must be said of it when its drawings are shown."""

    name: str
    package: str
    version: str
    licence: str
    credit: str


ART_SETS = (
    ArtSet(
        "twemoji", "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twemoji, (c) Twitter, Inc and other contributors"
    ),
    ArtSet("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, (c) Google LLC"),
    ArtSet("fluent-flat", "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, (c) Microsoft Corporation"),
    ArtSet(
        "fluent-3d",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "MIT",
        "Fluent Emoji 3D, (c) Microsoft Corporation; packaged by LobeHub",
    ),
)


@dataclass(frozen=True, slots=True)
class Art:
    """The sprites of all things.

    names: the things, in the order of `sprites`.
    sprites: uint8 (things, drawings, S, S, 4), RGBA with straight alpha.
    """

    names: tuple[str, ...]
    sprites: np.ndarray

    def only(self, names: tuple[str, ...]) -> "Art":
        return Art(names, self.sprites[[self.names.index(name) for name in names]])

    def scaled(self, pixels: int) -> "Art":
        """The same art at `pixels` x `pixels`: scenes are drawn several times faster from small sprites."""
        small = [
            Image.fromarray(sprite).convert("RGBa").resize((pixels, pixels), Image.Resampling.BOX).convert("RGBA")
            for sprite in self.sprites.reshape(-1, *self.sprites.shape[2:])
        ]
        return Art(
            self.names,
            np.stack([np.asarray(image) for image in small]).reshape(*self.sprites.shape[:2], pixels, pixels, 4),
        )


def fetch_art(folder: Path, sets: Sequence[ArtSet] = ART_SETS) -> None:
    """Installs the sets' packages under `folder`/node_modules with npm. Raises CalledProcessError if npm fails."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = [f"{art_set.package}@{art_set.version}" for art_set in sets]
    subprocess.run(
        [
            "npm",
            "install",
            "--prefix",
            str(folder),
            "--no-save",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            *packages,
        ],
        check=True,
    )


def draw(folder: Path, art_set: ArtSet, code: str, pixels: int = SPRITE_PIXELS) -> Image.Image:
    """One drawing as an RGBA image of `pixels` x `pixels`.

    Raises KeyError when the set has no drawing for the code point.
    """
    package = folder / "node_modules" / art_set.package
    bare = code.lower().replace("-fe0f", "")
    spellings = (bare, code.lower(), f"{bare}-fe0f")
    if art_set.name == "fluent-3d":
        for spelling in spellings:
            path = package / "assets" / f"{spelling}.webp"
            if path.exists():
                return Image.open(path).convert("RGBA").resize((pixels, pixels), Image.Resampling.LANCZOS)
        raise KeyError(f"{art_set.name} has no drawing for {code}")
    icons, characters = _iconify(package)
    icon = next((characters[spelling] for spelling in spellings if spelling in characters), None)
    if icon is None:
        raise KeyError(f"{art_set.name} has no drawing for {code}")
    icon = icons["aliases"][icon]["parent"] if icon in icons.get("aliases", {}) else icon
    return rasterise(icons, icon, pixels)


def rasterise(icons: dict, icon: str, pixels: int) -> Image.Image:
    """An icon of an iconify package as an RGBA image of `pixels` x `pixels`."""
    width, height = icons.get("width", 16), icons.get("height", 16)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icons["icons"][icon]["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def draw_thing(folder: Path, code: str, pixels: int = SPRITE_PIXELS) -> np.ndarray:
    """Every set's drawing of it, uint8 (drawings, S, S, 4). Raises KeyError when a set has none."""
    return np.stack([np.asarray(draw(folder, art_set, code, pixels)) for art_set in ART_SETS])


@functools.cache
def _iconify(package: Path) -> tuple[dict, dict[str, str]]:
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    return icons, json.loads((package / "chars.json").read_text(encoding="utf-8"))


def load_art(folder: Path) -> Art:
    """All sprites, drawn on the first call and read from `folder`/sprites.npz afterwards."""
    cached = folder / "sprites.npz"
    if not cached.exists():
        fetch_art(folder)
        sprites = np.stack([draw_thing(folder, code) for code in things().values()])
        np.savez(cached, sprites=sprites)
    return Art(tuple(things()), np.load(cached)["sprites"])
