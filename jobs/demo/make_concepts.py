"""Draws the demo concepts beside this file: python jobs/demo/make_concepts.py [--art runs/mini/art]

There are three kinds: six individuals, each a thing that the mini model was trained on, in colours that it was not; four things
that no caption of its training named; two styles that it does not know. As in real picture sets, formats are mixed, one picture has
a transparent background, and one is stored sideways.
"""

import argparse
import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from jobs.cli.arguments import folder
from jobs.mini.recipe import art

HERE = Path(__file__).parent
PIXELS = 256
ORIENTATION_TAG, QUARTER_TURN = 0x0112, 6
DEEP_BLUE, GRID_BLUE, LINE_WHITE = (22, 58, 128), (36, 76, 150), (240, 246, 255)
DARK_INK, LIGHT_INK = (74, 20, 140), (255, 216, 64)


@dataclass(frozen=True, slots=True)
class Picture:
    """drawing: which art set's. size: of the thing, in widths of the picture."""

    drawing: int
    form: str
    size: float = 0.86
    mirrored: bool = False
    turn: float = 0.0
    ground: tuple[int, int, int] | None = (255, 255, 255)
    sideways: bool = False


@dataclass(frozen=True, slots=True)
class Thing:
    """concept: its name in the manifest. thing: what it is a drawing of.

    class_: the coarse noun. initializer: a near word that the mini model knows, where the noun is not.
    colours: which channel of the drawing its red, its green and its blue are.
    """

    concept: str
    thing: str
    class_: str
    group: str
    pictures: tuple[Picture, ...]
    initializer: str = ""
    images: str = ""
    colours: tuple[int, int, int] = (0, 1, 2)


FOUR = (Picture(0, "png"), Picture(1, "jpg", 0.8), Picture(2, "webp", 0.84), Picture(3, "jpg", 0.88))


def poses(drawing: int, *, sideways: bool = False, bare: bool = False) -> tuple[Picture, ...]:
    """Four pictures of one drawing, like four photographs."""
    return (
        Picture(drawing, "png", 0.9, ground=None if bare else (255, 255, 255)),
        Picture(drawing, "jpg", 0.8, mirrored=True, sideways=sideways),
        Picture(drawing, "webp", 0.84, turn=9),
        Picture(drawing, "jpg", 0.76, mirrored=True, turn=7),
    )


INDIVIDUALS = (
    Thing("my-crab", "crab", "crab", "individual", poses(0), colours=(1, 0, 2)),
    Thing("my-car", "car", "car", "individual", poses(1), colours=(2, 1, 0)),
    Thing("my-teapot", "teapot", "teapot", "individual", poses(1, sideways=True), colours=(1, 0, 2)),
    Thing("my-butterfly", "butterfly", "butterfly", "individual", poses(2), colours=(2, 1, 0)),
    Thing("my-shoe", "high heel", "high heel", "individual", poses(1), colours=(2, 1, 0)),
    Thing("my-house", "house", "house", "individual", poses(1, bare=True), colours=(2, 1, 0)),
)
NEW_KINDS = (
    Thing("owl", "owl", "bird", "new kind", (*FOUR, Picture(1, "png", 0.74, mirrored=True, turn=6)), "eagle"),
    Thing("bus", "bus", "car", "new kind", FOUR, "delivery truck", "images/bus/*"),
    Thing(
        "taxi",
        "taxi",
        "car",
        "new kind",
        (*FOUR[:3], Picture(3, "jpg", 0.88, sideways=True), Picture(2, "png", 0.8, mirrored=True)),
    ),
    Thing("christmas-tree", "christmas tree", "tree", "new kind", FOUR, "pine tree", "list"),
)


def blueprint(sprite: Image.Image) -> Image.Image:
    """White outlines on deep blue squared paper, thick enough to survive at 64 pixels."""
    flat = np.asarray(on_ground(sprite, (255, 255, 255)).filter(ImageFilter.GaussianBlur(2)), np.float32)
    down, right = np.abs(np.diff(flat, axis=0, append=flat[-1:])), np.abs(np.diff(flat, axis=1, append=flat[:, -1:]))
    edges = Image.fromarray(np.where((down + right).max(-1) > 13, 255, 0).astype(np.uint8))
    lines = (
        edges.filter(ImageFilter.MedianFilter(3)).filter(ImageFilter.GaussianBlur(1.2)).point(lambda v: min(255, v * 2))
    )
    paper = np.full((PIXELS, PIXELS, 3), DEEP_BLUE, np.uint8)
    paper[16::32], paper[:, 16::32] = GRID_BLUE, GRID_BLUE
    return Image.composite(Image.new("RGB", (PIXELS, PIXELS), LINE_WHITE), Image.fromarray(paper), lines)


def duotone(sprite: Image.Image) -> Image.Image:
    """Two inks: purple where the picture is dark, yellow where it is light."""
    grey = ImageOps.autocontrast(on_ground(sprite, (255, 255, 255)).convert("L"), cutoff=1)
    return ImageOps.colorize(grey, DARK_INK, LIGHT_INK)


@dataclass(frozen=True, slots=True)
class Style:
    """A manner that has no name the mini model knows. redraw: how any picture takes it on."""

    name: str
    redraw: Callable[[Image.Image], Image.Image]
    things: tuple[tuple[str, int, str], ...]  # thing, drawing, format


STYLES = (
    Style(
        "blueprint", blueprint, (("house", 0, "png"), ("guitar", 2, "webp"), ("cat", 0, "png"), ("bicycle", 0, "webp"))
    ),
    Style("duotone", duotone, (("lion", 1, "jpg"), ("castle", 1, "png"), ("rose", 0, "webp"), ("teapot", 3, "jpg"))),
)


def on_ground(sprite: Image.Image, ground: tuple[int, int, int] | None, size: float = 0.9) -> Image.Image:
    """The sprite in the middle of a picture; on no ground it keeps its transparency."""
    side = round(size * PIXELS)
    small = sprite.resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (PIXELS, PIXELS), (*ground, 255) if ground else (255, 255, 255, 0))
    canvas.alpha_composite(small, ((PIXELS - side) // 2,) * 2)
    return canvas.convert("RGB") if ground else canvas


def draw(sprite: Image.Image, picture: Picture) -> Image.Image:
    if picture.mirrored:
        sprite = ImageOps.mirror(sprite)
    if picture.turn:
        sprite = sprite.rotate(picture.turn, Image.Resampling.BICUBIC)
    drawn = on_ground(sprite, picture.ground, picture.size)
    return drawn.transpose(Image.Transpose.ROTATE_90) if picture.sideways else drawn


def encode(image: Image.Image, form: str, sideways: bool = False) -> bytes:
    exif = Image.Exif()
    if sideways:
        exif[ORIENTATION_TAG] = QUARTER_TURN
    buffer = io.BytesIO()
    if form == "png":
        image.save(buffer, "PNG", optimize=True)
    elif form == "jpg":
        image.save(buffer, "JPEG", quality=92, subsampling=0, exif=exif)
    else:
        image.save(buffer, "WEBP", quality=90, method=6)
    return buffer.getvalue()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--art", type=folder, default=Path("runs/mini/art"), help="folder of the art; fetched if it is empty"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    drawn = art.load_art(parser().parse_args(argv).art)
    shutil.rmtree(HERE / "images", ignore_errors=True)
    rows: list[dict[str, str]] = []
    credits: list[tuple[str, str, str]] = []  # file, what it shows, art set

    def sprite(thing: str, drawing: int, colours: tuple[int, ...] = (0, 1, 2)) -> Image.Image:
        pixels = drawn.sprites[drawn.names.index(thing), drawing]
        return Image.fromarray(np.ascontiguousarray(pixels[..., [*colours, 3]]))

    def write(concept: str, number: int, form: str, data: bytes, shows: str, drawing: int) -> str:
        path = HERE / "images" / concept / f"{number}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        name = path.relative_to(HERE).as_posix()
        credits.append((name, shows, art.ART_SETS[drawing].name))
        return name

    for thing in (*INDIVIDUALS, *NEW_KINDS):
        files = []
        shown = f"{thing.thing}, recoloured" if thing in INDIVIDUALS else thing.thing
        for number, picture in enumerate(thing.pictures, 1):
            image = draw(sprite(thing.thing, picture.drawing, thing.colours), picture)
            data = encode(image, picture.form, picture.sideways)
            files.append(write(thing.concept, number, picture.form, data, shown, picture.drawing))
        images = json.dumps(files) if thing.images == "list" else thing.images or f"images/{thing.concept}"
        rows.append(
            {
                "concept": thing.concept,
                "images": images,
                "initializer": thing.initializer,
                "class": thing.class_,
                "kind": "object",
                "group": thing.group,
            }
        )
    for style in STYLES:
        for number, (shown, drawing, form) in enumerate(style.things, 1):
            data = encode(style.redraw(sprite(shown, drawing)), form)
            write(style.name, number, form, data, f"{shown}, redrawn as a {style.name}", drawing)
        rows.append(
            {
                "concept": style.name,
                "images": f"images/{style.name}",
                "initializer": "oil painting",
                "class": "painting",
                "kind": "style",
                "group": "style",
            }
        )
    with (HERE / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "ATTRIBUTION.md").write_text(attribution(credits), encoding="utf-8")
    print(f"{len(rows)} concepts, {len(credits)} pictures in {HERE}")


def attribution(credits: list[tuple[str, str, str]]) -> str:
    sets = "\n".join(f"| {s.name} | {s.credit} | {s.licence} | `{s.package}` {s.version} |" for s in art.ART_SETS)
    files = "\n".join(f"| {name} | {shows} | {art_set} |" for name, shows, art_set in credits)
    return f"""# Where the demo's pictures come from

Made by `python jobs/demo/make_concepts.py` from four free sets of emoji drawings. Changes made to them:
rasterised, scaled, placed on a ground, some mirrored or turned; the individuals with
their colour channels exchanged; for the two styles redrawn by image filters.

| set | by | licence | npm package |
|---|---|---|---|
{sets}

Licence texts: `licences/CC-BY-4.0.txt` (<https://creativecommons.org/licenses/by/4.0/>), `licences/Apache-2.0.txt`,
`licences/MIT.txt`.

| file | shows | set |
|---|---|---|
{files}
"""


if __name__ == "__main__":
    main()
