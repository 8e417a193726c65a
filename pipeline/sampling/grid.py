"""The grid of a word: training images and samples, each row labelled with its prompt."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.inputs.picture_file import decode_drawn
from pipeline.records import AGAINST, Sample

TILE, GAP, LABEL = 128, 6, 20
PER_ROW = 8
INK, PAPER = (32, 32, 36), (255, 255, 255)
TITLES = {"training": "training images"}


def draw_grid(title: str, samples: Sequence[Sample]) -> bytes:
    """A PNG: one labelled row for the training images, then one a prompt; untrained samples are left out."""
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.kind != "untrained":
            said = sample.prompt.replace(AGAINST, ", and not ")
            rows.setdefault(TITLES.get(sample.kind, said), []).append(sample)
    columns = max(min(len(some), PER_ROW) for some in rows.values())
    width = GAP + columns * (TILE + GAP)
    sheet = Image.new("RGB", (width, LABEL + GAP + len(rows) * (TILE + LABEL + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    pen.text((GAP, GAP), _fit(title, pen, font, width), INK, ImageFont.load_default(15))
    top = LABEL + GAP
    for label, some in rows.items():
        pen.text((GAP, top), _fit(label, pen, font, width), INK, font)
        for column, sample in enumerate(some[:PER_ROW]):
            sheet.paste(_tile(decode_drawn(sample.png)), (GAP + column * (TILE + GAP), top + LABEL))
        top += TILE + LABEL + GAP
    return encode_png(np.asarray(sheet))


def _tile(picture: Image.Image) -> Image.Image:
    # Enlarged pictures keep their pixels: what a 64-pixel model drew should not look blurred.
    larger = picture.width < TILE
    return picture.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def _fit(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if pen.textlength(text, font) <= width - 2 * GAP:
        return text
    while text and pen.textlength(text + "…", font) > width - 2 * GAP:
        text = text[:-1]
    return text + "…"


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3), or (H, W, 4) with alpha -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
