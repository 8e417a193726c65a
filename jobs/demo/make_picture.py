"""The README's picture, from the demo's own samples: python jobs/demo/make_picture.py runs/demo

One row a word: two of its training images, then the first picture of every prompt.
"""

import argparse
import io
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from pipeline.records import Sample
from pipeline.store.run_tables import samples_of

SHOWN = ("owl", "ladybug", "taxi", "penguin", "crown", "umbrella")
OUTPUT = Path(__file__).parent / "demo.png"
TILE, GAP, LABEL, NAME = 112, 4, 20, 92


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="the demo's run folder")
    run = parser.parse_args().run
    samples: dict[str, list[Sample]] = {}
    for sample in samples_of(pq.read_table(f"{run}/samples")):
        samples.setdefault(sample.concept, []).append(sample)
    font = ImageFont.load_default(12)
    rows = [row(samples[name]) for name in SHOWN]
    headings = [
        "learned from",
        "",
        *(sample.stated.replace("a photo of", "").strip() or "a photo" for sample in rows[0][2:]),
    ]
    width = NAME + len(headings) * (TILE + GAP) + 3 * GAP
    sheet = Image.new("RGB", (width, LABEL + len(rows) * (TILE + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        pen.text((left(column), 3), heading.removesuffix(" of").replace("background", "ground"), "black", font)
    for index, (name, pictures) in enumerate(zip(SHOWN, rows, strict=True)):
        top = LABEL + index * (TILE + GAP)
        pen.text((GAP, top + TILE // 2 - 8), f"<{name}>", "black", font)
        for column, sample in enumerate(pictures):
            with Image.open(io.BytesIO(sample.png)) as picture:
                sheet.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST), (left(column), top))
    sheet.save(OUTPUT)
    print(OUTPUT)


def left(column: int) -> int:
    return NAME + column * (TILE + GAP) + (3 * GAP if column > 1 else 0)


def row(samples: list[Sample]) -> list[Sample]:
    """Two training images, two of the plain prompt, one of every edit."""
    training = [sample for sample in samples if sample.kind == "training"][:2]
    plain = [sample for sample in samples if sample.kind == "reconstruction"][:2]
    edits = [sample for sample in samples if sample.kind == "edit" and sample.index == 0]
    return training + plain + edits


if __name__ == "__main__":
    main()
