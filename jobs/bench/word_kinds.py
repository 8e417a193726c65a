"""Compares places and optimisers of a word on the shipped model: seconds a step, similarity to the pictures, blends of two words.

  python -m jobs.bench.word_kinds --concepts 10 --pictures 8
  python -m jobs.bench.word_kinds --negative --concepts 3

Learns concepts of the demo's manifest one by one, each from the words of its class and from the same draws, in this process and on
one thread. Prints one JSON object: for each kind of word the seconds a step, the CLIP similarity of pictures of "a photo of a
<word>" to the pictures it was learned from (and before training), that of two edits' pictures to their texts, both less those of
the default, paired by concept, with a 95 % interval; and the first of a half-way blend of each two neighbours to the
pictures of both, by spherical and by straight interpolation. With --negative, each concept is a negative word instead: the
distance (1 - similarity) of pictures of "a photo of a <class>" from the pictures to be avoided, without and with it.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.judges.clip import load_clip
from eval.scores.metrics import image_similarity, interval, text_similarity
from jobs.cli.arguments import MOST_STEPS, whole_number
from pipeline.inputs.image_sets import find_sources, load_images
from pipeline.inputs.manifest import read_manifest
from pipeline.models.load import load_backbone
from pipeline.records import AGAINST, Word
from pipeline.sampling.blending import slerp
from pipeline.sampling.prompting import leave_out
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings
from pipeline.training.inversion import learn_to_the_end, new_slot, train_step

MANIFEST = Path(__file__).parents[1] / "demo" / "manifest.csv"
COMMON = InversionSettings(steps=48, learning_rate=1e-2, schedule="cosine", min_snr=0.1, early_stop="off")
# The first rate is that of the shipped recipe; the others are guesses that nobody has tuned.
KINDS = {
    "before the encoder, AdamW": COMMON,
    "before the encoder, directional": replace(COMMON, optimiser="directional", learning_rate=0.02),
    "behind the encoder, AdamW": replace(COMMON, word_place="output", learning_rate=0.1),
    "behind the encoder, directional": replace(
        COMMON, word_place="output", optimiser="directional", learning_rate=0.02
    ),
}
DRAWN, PROMPT = SamplerSettings("dpm++", 12, 5.0), "a photo of a <word>"
EDITS = ("a photo of a <word> at night", "a photo of a <word> on the grass")


def compare(concepts: int, steps: int, pictures: int, rate: float | None = None) -> dict[str, Any]:
    """For each kind of word its figures, means over the concepts."""
    backbone, clip = load_backbone("mini"), load_clip("mini", "cpu")
    rows = [each for each in read_manifest(str(MANIFEST)).concepts if each.kind == "object"][:concepts]
    sets = [load_images(find_sources(each), backbone.resolution, "centre").pixels for each in rows]
    seen = [clip.encode_images(list(pixels)) for pixels in sets]

    def similarities(word: dict[str, np.ndarray], to: Sequence[int]) -> list[float]:
        """Of the same pictures of the word to those of each of these concepts."""
        drawn = sample(backbone, [PROMPT] * pictures, range(pictures), {"<word>": word}, DRAWN)
        features = clip.encode_images(list(drawn))
        return [float(image_similarity(features, seen[each]).mean()) for each in to]

    def editability(word: dict[str, np.ndarray]) -> float:
        """Similarity of edited pictures of the word to the edits' texts without it."""
        values = []
        for edit in EDITS:
            drawn = sample(backbone, [edit] * pictures, range(pictures), {"<word>": word}, DRAWN)
            text = clip.encode_texts([leave_out(edit, "<word>")])[0]
            values.append(float(text_similarity(clip.encode_images(list(drawn)), text).mean()))
        return float(np.mean(values))

    kinds: dict[str, Any] = {}
    default: dict[str, list[float]] = {}
    for kind, settings in KINDS.items():
        settings = replace(settings, steps=steps, learning_rate=rate or settings.learning_rate)
        words, seconds = [], []
        for concept, pixels in zip(rows, sets, strict=True):
            slot = new_slot(replace(concept, placeholder="<word>"), pixels, backbone, settings)
            ended: list[Any] = []
            while not ended:
                began = time.perf_counter()
                ended = train_step(backbone, [slot])
                seconds.append(time.perf_counter() - began)
            word = ended[0][1]
            assert isinstance(word, Word), word
            words.append(word)
        measured = {
            "similarity": [similarities(dict(word.vectors), [place])[0] for place, word in enumerate(words)],
            "text_similarity": [editability(dict(word.vectors)) for word in words],
        }
        default = default or measured
        before = [similarities(dict(word.initial), [place])[0] for place, word in enumerate(words)]
        pairs = list(itertools.pairwise(range(len(words))))
        blends = {
            name: [
                similarities({key: mix(words[a].vectors[key], words[b].vectors[key]) for key in words[a].vectors}, pair)
                for pair in pairs
                for a, b in [pair]
            ]
            for name, mix in (
                ("slerp", lambda a, b: slerp(a, b, 0.5)),
                ("lerp", lambda a, b: (a + b) / 2),
            )
        }
        lengths = [float(np.linalg.norm(rows_of, axis=1).mean()) for word in words for rows_of in word.vectors.values()]
        kinds[kind] = {
            "learning_rate": settings.learning_rate, "seconds_a_step": round(float(np.median(seconds)), 4),
            **{name: round(float(np.mean(values)), 3) for name, values in measured.items()},
            **{f"{name}_less_default": less(values, default[name]) for name, values in measured.items()},
            "before_training": round(float(np.mean(before)), 3),
            "mean_length": round(float(np.mean(lengths)), 3),
            "blend_similarity": {name: round(float(np.mean(values)), 3) for name, values in blends.items() if values},
        }  # fmt: skip
    return kinds


def less(values: Sequence[float], of_default: Sequence[float]) -> list[float]:
    """Mean difference, paired by concept, and its 95 % interval (low, high)."""
    differences = np.subtract(values, of_default)
    return [round(float(each), 3) for each in (differences.mean(), *interval(differences, np.random.default_rng(0)))]


def avoided(concepts: int, steps: int, pictures: int) -> dict[str, dict[str, float]]:
    """Concept -> distances from its pictures, without and with it as a negative word."""
    backbone, clip = load_backbone("mini"), load_clip("mini", "cpu")
    rows = [each for each in read_manifest(str(MANIFEST)).concepts if each.kind == "object" and each.noun][:concepts]
    nearness = {}
    for concept in rows:
        pixels = load_images(find_sources(concept), backbone.resolution, "centre").pixels
        seen = clip.encode_images(list(pixels))
        negative = replace(concept, placeholder="<word>", kind="negative", initializer=None)
        slot = new_slot(negative, pixels, backbone, replace(COMMON, steps=steps))
        words, prompt = {"<word>": learn_to_the_end(backbone, slot).vectors}, f"a photo of a {concept.noun}"
        nearness[concept.name] = {
            name: round(1 - float(image_similarity(clip.encode_images(list(drawn)), seen).mean()), 3)
            for name, asked in (("without", prompt), ("with", f"{prompt}{AGAINST}<word>"))
            for drawn in [sample(backbone, [asked] * pictures, range(pictures), words, DRAWN)]
        }
    return nearness


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="word_kinds.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", type=whole_number(2, 10), default=6, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--steps", type=whole_number(1, MOST_STEPS), default=48, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--pictures",
        type=whole_number(1, 10_000),
        default=8,
        metavar="N",
        help="of each word and blend (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate", type=learning_rate, metavar="X", help="of all kinds (default: each kind's own)"
    )
    parser.add_argument("--negative", action="store_true", help="words of the negative prompt")
    return parser


def learning_rate(said: str) -> float:
    return replace(COMMON, learning_rate=float(said)).learning_rate


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    torch.set_num_threads(1)
    if arguments.negative:
        print(json.dumps(avoided(arguments.concepts, arguments.steps, arguments.pictures), indent=2))
        return 0
    print(
        json.dumps(compare(arguments.concepts, arguments.steps, arguments.pictures, arguments.learning_rate), indent=2)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
