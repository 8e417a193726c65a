"""The README's picture, from the demo's own samples: python jobs/demo/make_picture.py runs/demo

One row a word: two of its training images, two pictures of the plain prompt, and the first pictures of two edits. Below
them pictures of two words in one sentence, drawn for this sheet.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from pipeline.models.find import MINI
from pipeline.models.load import load_backbone
from pipeline.records import Sample
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.store.run_tables import samples_of

SHOWN = (
    "my-crab",
    "my-car",
    "my-teapot",
    "my-shoe",
    "my-butterfly",
    "my-house",
    "taxi",
    "christmas-tree",
    "bus",
    "duotone",
)
EDITS = ("on the grass", "at night", "a cat in", "a tree in")  # two of an object, two of a style
TOGETHER = "a photo of <my-car> and <christmas-tree>"
OUTPUT = Path(__file__).parent / "demo.png"
TILE, GAP, LABEL, NAME = 112, 4, 18, 104


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="the demo's run folder")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    run = parser().parse_args(argv).run
    if not Path(run, "samples").is_dir():
        parser().error(f"{run} is not the demo's run folder: it has no samples/; make demo writes it to runs/demo")
    samples: dict[str, list[Sample]] = {}
    for each in samples_of(pq.read_table(f"{run}/samples")):
        samples.setdefault(each.concept, []).append(each)
    rows = [(f"<{name}>", row(samples[name])) for name in SHOWN]
    rows.append(("two words", [(TOGETHER, picture) for picture in together(run)]))
    columns = max(len(tiles) for _, tiles in rows)
    sheet = Image.new("RGB", (NAME + columns * (TILE + GAP), len(rows) * (TILE + LABEL + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (name, tiles) in enumerate(rows):
        top = index * (TILE + LABEL + GAP)
        pen.text((GAP, top + LABEL + TILE // 2), name, "black", font)
        for column, (said, picture) in enumerate(tiles):
            left = NAME + column * (TILE + GAP)
            if column == 0 or said != tiles[column - 1][0]:
                pen.text((left, top + 2), said, "black", font)
            small = picture.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(small, (left, top + LABEL))
    sheet.save(OUTPUT)
    print(OUTPUT)


def row(samples: list[Sample]) -> list[tuple[str, Image.Image]]:
    """Two training images, two of the plain prompt, one of each of two edits; each with what is written above it."""
    training = [("learned from", each) for each in samples if each.kind == "training"][:2]
    plain = [("it", each) for each in samples if each.kind == "reconstruction"][:2]
    edits = [
        (edit, each)
        for edit in EDITS
        for each in samples
        if each.kind == "edit" and each.index == 0 and edit in each.prompt
    ]
    opened = [(said, Image.open(io.BytesIO(each.png))) for said, each in (*training, *plain, *edits)]
    return [("its style" if said == "it" and "style" in edits[0][1].prompt else said, image) for said, image in opened]


def together(run: str) -> list[Image.Image]:
    """Six pictures of TOGETHER."""
    words = {
        each["placeholder"]: {each["text_encoder"]: np.array(each["vectors"], np.float32)}
        for each in pq.read_table(f"{run}/embeddings").to_pylist()
    }
    return [
        Image.fromarray(pixels)
        for pixels in sample(load_backbone(MINI), [TOGETHER] * 6, range(6), words, SamplerSettings())
    ]


if __name__ == "__main__":
    main()
