"""How often a judge agrees with the eye on which of two sheets draws a thing: python -m jobs.mini.judge_agreement

The sheets are in eye/: of twelve things that the generator was not trained on, four words each, from different starts and after no
step or twelve; and of six more such things and four individuals, a word of each of four variants of compare.py (one vector, low
rate, progressive, directional), in an order that the person could not know. A person ordered them by sight before seeing what any
judge says of them, leaving out pairs of which neither or both draw the thing. A judge's order is that of the mean similarity to
the thing's own pictures.
"""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from eval.judges.clip import load_clip
from eval.judges.judge import ImageScorer
from eval.judges.outline import OutlineScorer

EYE = Path(__file__).with_name("eye")
SIDE, TRAINING, PER_SHEET = 64, 4, 3  # pixels; pictures of the thing; pictures of a sheet
SHEETS = "abcd"


def read_order() -> list[tuple[str, str, str]]:
    """(thing, the sheet that draws it better, the other)."""
    with (EYE / "order.csv").open(encoding="utf-8", newline="") as opened:
        return [(row["concept"], row["better"], row["worse"]) for row in csv.DictReader(opened)]


def agreement(judge: ImageScorer) -> list[bool]:
    """For each pair of read_order, whether the judge orders it as the eye did."""
    likeness: dict[str, dict[str, float]] = defaultdict(dict)
    order = read_order()
    for thing in {thing for thing, _, _ in order}:
        strip = np.asarray(Image.open(EYE / f"{thing}.png").convert("RGB"))
        tiles = [strip[:, left : left + SIDE] for left in range(0, strip.shape[1], SIDE)]
        features = judge.encode_images(tiles)
        own = features[:TRAINING].mean(0)
        for number, sheet in enumerate(SHEETS):
            first = TRAINING + number * PER_SHEET
            likeness[thing][sheet] = float((features[first : first + PER_SHEET] @ own).mean())
    return [likeness[thing][better] > likeness[thing][worse] for thing, better, worse in order]


def main() -> None:
    for judge in (load_clip(), OutlineScorer()):
        agreed = agreement(judge)
        print(f"{judge.name}: agrees with the eye on {sum(agreed)} of {len(agreed)} pairs, {np.mean(agreed):.0%}")


if __name__ == "__main__":
    main()
