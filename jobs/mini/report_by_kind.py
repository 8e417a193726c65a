"""The figures of `make mini-report` that tell what words are worth, a row for each kind of concept."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from eval.judges.judge import ClipScorer, ImageScorer
from eval.scores.metrics import nearest_concept
from jobs.mini.recipe import art
from jobs.mini.three_kinds import INDIVIDUAL, NEW_KIND, STYLE
from pipeline.records import Sample
from pipeline.store.run_tables import samples_of

EDITS = ("on the grass", "at night", "on a blue background", "a pencil sketch of")
PROMPTS = """steps = 12
[plain]
object = "a photo of {}"
style = "a painting in the style of {}"
[edits]
object = ["a photo of {} on the grass", "a photo of {} at night", "a photo of {} on a blue background", "a pencil sketch of {}"]
style = ["a painting of a cat in the style of {}", "a painting of a car in the style of {}"]
"""
PROTOCOL = f"""name = "mini-report"
plain_images = 4
edit_images = 2
untrained_images = 2
pair_images = 2
{PROMPTS}[pairs]
object = ["a photo of {{a}} and {{b}}"]
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. bar: what was asked for."""

    name: str
    value: float
    bar: float
    said: str


def figures_of_words(run: Path, drawings: art.Art, judges: Sequence[ImageScorer]) -> list[Figure]:
    """From the tables of a run over write_three_kinds' manifest. judges: the run's CLIP first."""
    concepts = {row["concept"]: row for row in pq.read_table(run / "report" / "concepts.parquet").to_pylist()}
    samples: dict[str, list[Sample]] = {}
    for sample in samples_of(pq.read_table(run / "samples")):
        samples.setdefault(sample.concept, []).append(sample)
    scores = pq.read_table(run / "scores").to_pylist()
    groups = {group: [name for name in sorted(concepts) if group_of(concepts[name]) == group] for group in BARS}
    figures: list[Figure] = []
    for judge in judges:
        if names := groups[INDIVIDUAL]:
            things = {name: _carried(concepts[name])["thing"] for name in names}
            figures.append(_named(things, samples, drawings, judge))
        figures += [_nearest(group, names, samples, judge) for group, names in groups.items() if len(names) > 1]
    for group, names in groups.items():
        if names:
            # A concept whose pictures are no more alike than an untrained word is like them has no way to cover: it counts as none.
            median = float(np.median([concepts[name]["covered"] or 0.0 for name in names]))
            said = f"{group}s: median share of the way from the untrained word to real pictures"
            figures.append(Figure(said, median, BARS[group][1], f"{median:.0%} of {len(names)}"))
    for group in (INDIVIDUAL, NEW_KIND):
        figures += [_raised(group, edit, scores, groups[group]) for edit in EDITS if groups[group]]
    return figures + _pairs(run, len(groups[INDIVIDUAL]))


# Kind -> the bars of: samples nearest to their own concept, median coverage.
BARS = {INDIVIDUAL: (0.85, 0.75), NEW_KIND: (0.85, 0.7), STYLE: (0.85, 0.7)}


def group_of(concept: Mapping[str, Any]) -> str:
    """Of a row of concepts.parquet."""
    return _carried(concept)["group"]


def _carried(concept: Mapping[str, Any]) -> dict[str, str]:
    return dict(concept["carried"])


def _named(
    things: Mapping[str, str], samples: Mapping[str, list[Sample]], drawings: art.Art, judge: ImageScorer
) -> Figure:
    """Individuals whose samples the judge names rightly among all things: by their names, or by drawings if it reads no texts.

    Beside it the same for their own pictures, whose colours their kind never has: what this judge makes of perfect words. And for
    what the model draws of the class noun: how well it draws the kind at all.
    """
    if isinstance(judge, ClipScorer):
        of_things = judge.encode_texts(
            [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in drawings.names]
        )
    else:
        pages = [_on_white(sprite) for sprites in drawings.scaled(64).sprites for sprite in sprites]
        of_things = judge.encode_images(pages).reshape(len(drawings.names), drawings.sprites.shape[1], -1).mean(1)

    def named(kind: str) -> float:
        right = [
            (_features(samples[name], kind, judge) @ of_things.T).argmax(1) == drawings.names.index(thing)
            for name, thing in things.items()
        ]
        return float(np.mean(np.concatenate(right)))

    share, ceiling, noun = named("reconstruction"), named("training"), named("noun")
    said = f"individuals: kind named among {len(drawings.names)}, by {judge.name} (beside it: their own pictures; their class noun)"
    return Figure(said, share, 0.6, f"{share:.0%} ({ceiling:.0%}; {noun:.0%})")


def _on_white(sprite: np.ndarray) -> np.ndarray:
    alpha = sprite[..., 3:].astype(np.float32) / 255
    page: np.ndarray = (sprite[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return page


def _nearest(group: str, names: Sequence[str], samples: Mapping[str, list[Sample]], judge: ImageScorer) -> Figure:
    """Samples whose mean similarity is highest to their own concept's pictures among those of their kind. Beside it the same for
    the pictures, each left out in turn: what this judge makes of perfect words.
    """
    training = [_features(samples[name], "training", judge) for name in names]
    drawn = [
        nearest_concept(_features(samples[name], "reconstruction", judge), training) == index
        for index, name in enumerate(names)
    ]
    real = [
        nearest_concept(images[[left]], [*training[:index], np.delete(images, left, axis=0), *training[index + 1 :]])
        == index
        for index, images in enumerate(training)
        for left in range(len(images))
    ]
    share, ceiling = float(np.mean(np.concatenate(drawn))), float(np.mean(np.concatenate(real)))
    said = f"{group}s: samples nearest to their own concept of {len(names)}, by {judge.name} (beside it: their own pictures)"
    return Figure(said, share, BARS[group][0], f"{share:.0%} ({ceiling:.0%})")


def _raised(group: str, edit: str, scores: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    raised = [
        row["value"] > row["floor"]
        for row in scores
        if row["metric"] == "text_similarity" and edit in row["prompt"] and row["concept"] in names
    ]
    share = float(np.mean(raised))
    return Figure(f"{group}s: '{edit}' raises the text similarity, share of words", share, 0.85, f"{share:.0%}")


def _pairs(run: Path, couples: int) -> list[Figure]:
    """couples: of an individual and a new kind, each drawn in both orders."""
    lines = json.loads((run / "report" / "summary.json").read_text(encoding="utf-8")).get("pairs", [])
    name = f"two words, {couples} pairs in both orders: pictures with both, by the run's CLIP"
    figures = []
    for line in lines:
        both, nouns = line["both"]["value"] or 0.0, line["both_nouns"] or 0.0
        figures.append(Figure(name, both, 0.5, f"{both:.0%} (of two class nouns {nouns:.0%})"))
    return figures


def _features(samples: Sequence[Sample], kind: str, judge: ImageScorer) -> np.ndarray:
    pictures = [Image.open(io.BytesIO(sample.png)) for sample in samples if sample.kind == kind]
    return np.asarray(judge.encode_images(pictures))
