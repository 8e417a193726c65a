"""The mini model's training pictures: one or two things in a place, in a style, 64 x 64 pixels, with an exact caption.

The caption names everything in a picture: if it names no place the background is white, and if it names no colour the thing has its
own. So a word that is learned later cannot confuse its concept with a background.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from jobs.mini.recipe.art import ART_SETS, Art

PIXELS = 64
UNNAMED_PAIRS = 0.15  # share of scenes of two things: two learned words are to fit into one sentence

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 60, 56),
    "orange": (245, 150, 50),
    "yellow": (250, 214, 70),
    "green": (70, 170, 84),
    "blue": (58, 110, 214),
    "purple": (138, 82, 190),
    "pink": (246, 160, 190),
    "brown": (132, 88, 58),
    "gray": (150, 150, 154),
    "black": (28, 28, 32),
    "white": (255, 255, 255),
}
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
PLACES = (
    "on the grass",
    "on the beach",
    "in the snow",
    "at night",
    "on the sea",
    "on a striped background",
    "on a checkered background",
)

PHOTO_PHRASES = (
    "a photo of",
    "a picture of",
    "an image of",
    "a rendering of",
    "a rendition of",
    "a depiction of",
    "a cropped photo of",
    "a close-up photo of",
    "a close up of",
    "a bright photo of",
    "a good photo of",
    "a clean photo of",
    "a nice photo of",
    "a painting of",
)
STYLES: dict[str, tuple[str, str]] = {  # style -> (phrase before the thing, name after "in the style of")
    "photo": ("a photo of", "a photo"),
    "pencil sketch": ("a pencil sketch of", "a pencil sketch"),
    "pixel art": ("pixel art of", "pixel art"),
    "black and white": ("a black and white photo of", "a black and white photo"),
    "oil painting": ("an oil painting of", "an oil painting"),
}
STYLE_PHRASES = ("a painting", "a picture", "a rendering", "an image", "a drawing")


@dataclass(frozen=True, slots=True)
class Scene:
    """What one picture shows, before it is drawn."""

    things: tuple[str, ...]
    drawings: tuple[int, ...]  # which of a thing's drawings, thing by thing
    style: str = "photo"
    place: str | None = None
    tint: str | None = None
    twice: bool = False


def draw_scene_plan(
    rng: np.random.Generator,
    names: Sequence[str] | np.ndarray,
    *,
    of_each: int = len(ART_SETS),
    pairs: float = 0.08,
    twice: float = 0.05,
) -> Scene:
    """A random scene over `names`: mostly one thing, mostly on white or on a named plain colour.

    of_each: drawings that there are of each thing. pairs, twice: shares of scenes of two things, and of one thing twice.
    """
    style = str(rng.choice(list(STYLES), p=(0.76, 0.07, 0.06, 0.05, 0.06)))
    ground = rng.random()
    place = None
    if ground > 0.42:
        colours = [colour for colour in COLOURS if colour != "white"]
        place = f"on a {rng.choice(colours)} background" if ground < 0.68 else str(rng.choice(PLACES))
    crowd = rng.random()
    things = tuple(str(name) for name in rng.choice(names, size=2 if crowd < pairs else 1, replace=False))
    tint = str(rng.choice(TINTS)) if len(things) == 1 and rng.random() < 0.08 else None
    drawings = tuple(int(drawing) for drawing in rng.integers(of_each, size=len(things)))
    return Scene(things, drawings, style, place, tint, twice=len(things) == 1 and crowd > 1 - twice)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the many ways to say the scene. Every phrase that Textual Inversion's templates use occurs in some."""
    if len(scene.things) == 2:
        subject = " and ".join(with_article(name, rng) for name in scene.things)
    elif scene.twice:
        subject = f"two {plural(scene.things[0])}"
    else:
        subject = with_article(f"{scene.tint} {scene.things[0]}" if scene.tint else scene.things[0], rng)
    before, after = STYLES[scene.style]
    if scene.style == "photo":
        say = rng.random()
        phrase = before if say < 0.55 else str(rng.choice(PHOTO_PHRASES)) if say < 0.9 else ""
        said = f"{phrase} {subject}".strip()
    elif rng.random() < 0.6:
        said = f"{before} {subject}"
    else:
        phrase = str(rng.choice(STYLE_PHRASES))
        named = "" if rng.random() < 0.25 else f" of {subject}"
        said = f"{phrase}{named} in the style of {after}"
    return f"{said} {scene.place}" if scene.place else said


def with_article(noun: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.6:
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    return f"the {noun}" if draw < 0.75 else noun if draw < 0.9 else f"{rng.choice(['my', 'one'])} {noun}"


def plural(noun: str) -> str:
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun if noun.endswith("s") and not noun.endswith("ss") else f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{noun}s"


def render(scene: Scene, art: Art, rng: np.random.Generator) -> np.ndarray:
    """The scene as uint8 (64, 64, 3)."""
    canvas = background(scene.place, rng)
    shown = zip(scene.things, scene.drawings, strict=True)
    sprites = [art.sprites[art.names.index(name), drawing] for name, drawing in shown]
    if scene.twice or len(sprites) == 2:
        left = sprites[0]
        right = sprites[-1] if len(sprites) == 2 else left
        for sprite, middle in ((left, 0.27), (right, 0.73)):
            paste(
                canvas,
                sprite,
                scene.tint,
                size=rng.uniform(0.40, 0.48),
                middle=(middle, rng.uniform(0.48, 0.6)),
                rng=rng,
            )
    else:
        size = rng.uniform(0.68, 0.9)
        drift = (0.94 - size) / 2
        x, y = 0.5 + rng.uniform(-drift, drift, size=2)
        paste(canvas, sprites[0], scene.tint, size=size, middle=(x, y), rng=rng)
    if scene.place == "at night":
        canvas = canvas * np.array((0.72, 0.74, 0.86), np.float32)
    return restyle(canvas, scene.style)


def paste(
    canvas: np.ndarray,
    sprite: np.ndarray,
    tint: str | None,
    *,
    size: float,
    middle: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Composites one sprite onto float32 `canvas` (64, 64, 3) in place; `size` and `middle` in widths of the canvas."""
    pixels = round(size * PIXELS)
    image = Image.fromarray(sprite)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.25:
        image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR)
    # Premultiplied alpha, so that the resize bleeds no colour out of transparent pixels.
    scaled = np.asarray(image.convert("RGBa").resize((pixels, pixels), Image.Resampling.BOX), np.float32)
    colour, alpha = scaled[..., :3], scaled[..., 3:] / 255
    if tint:
        light = colour.mean(-1, keepdims=True)
        colour = 0.2 * colour + 0.8 * np.minimum(light * np.array(COLOURS[tint], np.float32) / 150, 255 * alpha)
    x = int(np.clip(round(middle[0] * PIXELS - pixels / 2), 0, PIXELS - pixels))
    y = int(np.clip(round(middle[1] * PIXELS - pixels / 2), 0, PIXELS - pixels))
    ground = canvas[y : y + pixels, x : x + pixels]
    ground[...] = colour + ground * (1 - alpha)


def background(place: str | None, rng: np.random.Generator) -> np.ndarray:
    """The ground of a scene as float32 (64, 64, 3) in [0, 255]; white where no place is named."""
    rows = np.arange(PIXELS, dtype=np.float32)[:, None, None] / PIXELS
    if place is None:
        return np.full((PIXELS, PIXELS, 3), 255, np.float32)
    if place.endswith("background") and not place.startswith(("on a striped", "on a checkered")):
        colour = np.array(COLOURS[place.split()[2]], np.float32) + rng.uniform(-10, 10, 3).astype(np.float32)
        return np.broadcast_to(np.clip(colour, 0, 255), (PIXELS, PIXELS, 3)).copy()
    if place.startswith(("on a striped", "on a checkered")):
        light, dark = _two_shades(rng)
        width = int(rng.integers(8, 13))
        columns = np.arange(PIXELS) // width % 2
        odd = (
            columns[None, :] ^ columns[:, None] if "checkered" in place else np.broadcast_to(columns, (PIXELS, PIXELS))
        )
        return np.where(odd[..., None].astype(bool), light, dark).astype(np.float32)
    horizon = rng.uniform(0.5, 0.66)
    above, below = {
        "on the grass": ((150, 206, 245), (98, 178, 72)),
        "on the beach": ((96, 190, 232), (240, 214, 150)),
        "in the snow": ((176, 200, 224), (244, 248, 252)),
        "at night": ((20, 26, 66), (34, 44, 74)),
        "on the sea": ((196, 226, 246), (36, 106, 176)),
    }[place]
    canvas = np.where(rows < horizon, np.array(above, np.float32), np.array(below, np.float32)) * (0.94 + 0.12 * rows)
    canvas = np.broadcast_to(canvas, (PIXELS, PIXELS, 3)).copy()
    _furnish(canvas, place, horizon, rng)
    return np.clip(canvas, 0, 255)


def _two_shades(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    colour = np.array(COLOURS[str(rng.choice(list(COLOURS)[:9]))], np.float32)
    return 255 - (255 - colour) * 0.25, colour


def _furnish(canvas: np.ndarray, place: str, horizon: float, rng: np.random.Generator) -> None:
    edge = int(horizon * PIXELS)
    if place == "on the grass":
        for x in range(0, PIXELS, 4):
            height = int(rng.integers(2, 5))
            canvas[edge - height : edge, x : x + 2] = (84, 160, 62)
    elif place == "on the beach":
        canvas[edge - 8 : edge] = (40, 140, 200)
    elif place == "in the snow":
        for y, x in rng.integers(0, PIXELS - 2, size=(18, 2)):
            canvas[y : y + 2, x : x + 2] = 255
    elif place == "at night":
        for y, x in rng.integers(0, (edge - 2, PIXELS - 1), size=(14, 2)):
            canvas[y : y + 2, x : x + 1] = (255, 250, 200)
        y, x = np.mgrid[:PIXELS, :PIXELS]
        moon = (x - rng.integers(6, PIXELS - 6)) ** 2 + (y - 9) ** 2 < 25
        canvas[moon] = (250, 244, 200)
    else:
        phase, columns = rng.uniform(0, 2 * math.pi), np.arange(PIXELS)
        for y in range(edge + 3, PIXELS - 2, 8):
            crest = (y + 1.5 * np.sin(columns / 4 + phase + y)).astype(int)
            canvas[np.clip(crest, 0, PIXELS - 1), columns] = (150, 200, 236)


def restyle(canvas: np.ndarray, style: str) -> np.ndarray:
    """Float32 (64, 64, 3) in [0, 255] -> uint8, redrawn in the style."""
    canvas = np.clip(canvas, 0, 255)
    if style == "photo":
        return canvas.astype(np.uint8)
    if style == "pixel art":
        block = 4
        mosaic = canvas.reshape(PIXELS // block, block, PIXELS // block, block, 3).mean((1, 3))
        mosaic = np.round(mosaic / 36) * 36
        return np.clip(mosaic, 0, 255).repeat(block, 0).repeat(block, 1).astype(np.uint8)
    grey = canvas @ np.array((0.3, 0.59, 0.11), np.float32)
    if style == "black and white":
        return np.repeat(grey[..., None], 3, -1).astype(np.uint8)
    if style == "pencil sketch":
        down, right = np.zeros_like(grey), np.zeros_like(grey)
        down[1:], right[:, 1:] = np.diff(grey, axis=0), np.diff(grey, axis=1)
        lines = np.clip(np.hypot(down, right) * 1.6, 0, 190)
        paper = 250 - lines - (255 - grey) * 0.18
        return np.repeat(np.clip(paper, 30, 255)[..., None], 3, -1).astype(np.uint8)
    soft = Image.fromarray(canvas.astype(np.uint8)).filter(ImageFilter.MedianFilter(5))
    strokes = 128 + (np.round(np.asarray(soft, np.float32) / 42) * 42 - 128) * 1.08 + np.array((8, 2, -12), np.float32)
    weave = 5 * np.sin(np.add.outer(np.arange(PIXELS), np.arange(PIXELS)) * 0.9)[..., None]
    return np.clip(strokes + weave, 0, 255).astype(np.uint8)


def sample_scenes(count: int, art: Art, names: tuple[str, ...], seed: int) -> tuple[np.ndarray, list[Scene], list[str]]:
    """`count` random scenes: uint8 (count, 64, 64, 3), what they show, and one caption each."""
    rng = np.random.default_rng(seed)
    scenes = [draw_scene_plan(rng, names) for _ in range(count)]
    pictures = np.stack([render(scene, art, rng) for scene in scenes])
    return pictures, scenes, [caption(scene, rng) for scene in scenes]


def sample_unnamed(
    count: int, art: Art, words: tuple[str, str], seed: int
) -> tuple[np.ndarray, list[Scene], list[str]]:
    """The same of things that the captions call by `words` alone, the only one or the first of two by the first of them."""
    rng = np.random.default_rng(seed)
    names = np.array(art.names)  # converted once: there may be thousands
    of_each = art.sprites.shape[1]
    scenes = [draw_scene_plan(rng, names, of_each=of_each, pairs=UNNAMED_PAIRS, twice=0) for _ in range(count)]
    pictures = np.stack([render(scene, art, rng) for scene in scenes])
    return pictures, scenes, [caption(replace(scene, things=words[: len(scene.things)]), rng) for scene in scenes]
