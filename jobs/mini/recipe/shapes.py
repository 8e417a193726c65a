"""Nine thousand shapes more for the generator, from icon sets: it sees each under a word made from its drawing.

What a word can become is bounded by the shapes that the generator has met. Icons of one colour are drawn in two tones, the second
in what they enclose; what shows a held-out thing is left out, as are letters, brands and the signs of user interfaces.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jobs.mini.recipe.art import Art, ArtSet, fetch_art, rasterise
from jobs.mini.recipe.things import held_out_things
from jobs.mini.recipe.unnamed_art import PIXELS, TOO_ALIKE, likeness

ICON_SETS = (
    ArtSet("game-icons", "@iconify-json/game-icons", "1.2.4", "CC-BY-3.0", "Game-icons.net, (c) its contributors"),
    ArtSet("phosphor", "@iconify-json/ph", "1.2.2", "MIT", "Phosphor Icons"),
    ArtSet("font-awesome", "@iconify-json/fa6-solid", "1.2.4", "CC-BY-4.0", "Font Awesome Free, (c) Fonticons, Inc."),
    ArtSet("flat-color-icons", "@iconify-json/flat-color-icons", "1.2.3", "MIT", "Flat Color Icons, (c) Icons8"),
    ArtSet(
        "fluent-color", "@iconify-json/fluent-color", "1.2.21", "MIT", "Fluent UI System Color Icons, (c) Microsoft"
    ),
    ArtSet("streamline", "@iconify-json/streamline-emojis", "1.2.4", "CC-BY-4.0", "Streamline Emojis"),
    ArtSet("ultimate", "@iconify-json/streamline-ultimate-color", "1.2.2", "CC-BY-4.0", "Streamline Ultimate Color"),
    ArtSet("kameleon", "@iconify-json/streamline-kameleon-color", "1.2.2", "CC-BY-4.0", "Streamline Kameleon Color"),
    ArtSet("plump", "@iconify-json/streamline-plump-color", "1.2.2", "CC-BY-4.0", "Streamline Plump Color"),
    ArtSet("cyber", "@iconify-json/streamline-cyber-color", "1.2.2", "CC-BY-4.0", "Streamline Cyber Color"),
)
# Words of the names of icons that are letters, brands, flags, outlines too thin for 64 pixels, or signs of user interfaces.
UNTOLD = frozenset(
    {
        *("logo", "brand", "slack", "figma", "github", "gitlab", "google", "apple", "microsoft", "facebook", "twitter"),
        *(
            "pokeball",
            "wars",
            "letter",
            "letters",
            "number",
            "alpha",
            "text",
            "italic",
            "font",
            "flag",
            "flags",
            "code",
        ),
        *(
            "thin",
            "light",
            "bold",
            "regular",
            "format",
            "align",
            "arrow",
            "arrows",
            "sort",
            "cursor",
            "chevron",
            "caret",
        ),
        *("window", "ui", "dots", "equals", "hash", "list", "rows", "columns", "table", "toggle", "circle", "square"),
        *("rectangle", "file", "page", "app", "folder", "envelope", "message", "messages", "chat"),
    }
)
WITHOUT_COLOUR = frozenset({"game-icons", "phosphor", "font-awesome"})
ENDINGS = {
    "phosphor": ("-fill", "-duotone"),
    "fluent-color": ("-48", "-32", "-28", "-24"),
}  # of the drawings that are taken


def load_shapes(folder: Path, art: Art) -> Art:
    """The icons of ICON_SETS: 96 px, one drawing each, cached. art: every thing that things.tsv names.

    Left out is what shares a word with a held-out thing's name, or whose outline correlates with that of one of its drawings
    by more than unnamed_art.TOO_ALIKE.
    """
    cached = folder / "shapes.npz"
    if not cached.exists():
        fetch_art(folder / "icons", ICON_SETS)
        drawn = dict(_shapes(folder / "icons"))
        shapes = Art(tuple(drawn), np.stack(list(drawn.values()))[:, None])
        held_out = art.only(held_out_things()).scaled(PIXELS)
        apart = likeness(_silhouettes(shapes), _silhouettes(held_out)) <= TOO_ALIKE
        np.savez(cached, names=np.array(shapes.names)[apart], sprites=shapes.sprites[apart])
    loaded = np.load(cached)
    return Art(tuple(str(name) for name in loaded["names"]), loaded["sprites"])


def _shapes(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    given_away = {word for name in held_out_things() for word in name.replace("-", " ").split()}
    rng = np.random.default_rng(0)
    for icon_set in ICON_SETS:
        icons = json.loads((folder / "node_modules" / icon_set.package / "icons.json").read_text(encoding="utf-8"))
        taken: set[str] = set()
        endings = ENDINGS.get(icon_set.name, ("",))
        for ending in endings:
            for icon in sorted(name for name in icons["icons"] if name.endswith(ending)):
                bare = icon.removesuffix(ending)
                sizes = icon_set.name not in WITHOUT_COLOUR  # the same drawing in several sizes
                if (sizes and bare in taken) or (UNTOLD | given_away) & set(bare.split("-")):
                    continue
                taken.add(bare)
                drawn = np.asarray(rasterise(icons, icon, PIXELS))
                yield f"{icon_set.name} {icon}", two_toned(drawn, rng) if not sizes else drawn


def two_toned(sprite: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A drawing of one colour, RGBA uint8 (S, S, 4), in a random one; what it encloses, or half-covers, in a second."""
    first, second = (_tone(rng) for _ in range(2))
    outside = Image.fromarray((sprite[..., 3] > 127).astype(np.uint8) * 255)
    framed = Image.new("L", (outside.width + 2, outside.height + 2))
    framed.paste(outside, (1, 1))
    ImageDraw.floodfill(framed, (0, 0), 128)
    covered = sprite[..., 3].astype(np.float32) / 255
    inside = np.asarray(framed)[1:-1, 1:-1] != 128
    share = np.where(inside, covered, 1.0)[..., None]  # of the first tone
    colours = share * first + (1 - share) * second
    alpha = np.where(inside, 255, sprite[..., 3])
    return np.concatenate([colours, alpha[..., None]], axis=-1).astype(np.uint8)


def _tone(rng: np.random.Generator) -> np.ndarray:
    hue, saturation, value = rng.integers(256), rng.integers(90, 256), rng.integers(90, 256)
    return np.asarray(Image.new("HSV", (1, 1), (int(hue), int(saturation), int(value))).convert("RGB"), np.float32)[
        0, 0
    ]


def _silhouettes(art: Art) -> np.ndarray:
    """float32 (things, drawings, 256): how much of each cell of 16 x 16 a drawing covers."""
    covered = art.sprites[..., 3].reshape(*art.sprites.shape[:2], 16, PIXELS // 16, 16, PIXELS // 16)
    means: np.ndarray = covered.mean((3, 5), dtype=np.float32).reshape(*art.sprites.shape[:2], -1)
    return means
