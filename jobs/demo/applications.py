"""The paper's applications (Gal et al. 2022, section 4) with the shipped model.

  python jobs/demo/applications.py --output runs/applications

Learns four words of the demo's pictures, one after the other in this process, and draws with them: style transfer, two words in one
sentence, inpainting through diffusers' own pipeline, and a class whose bias a chosen set of pictures takes away. Writes
applications.webp and applications.json, the figures of the last; docs/applications.md describes them. It takes minutes on a CPU.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from eval.judges.clip import load_clip
from eval.scores.metrics import diversity, image_similarity
from jobs.cli.arguments import MOST_STEPS, folder, whole_number
from pipeline.inputs.image_sets import find_sources, load_images
from pipeline.inputs.manifest import read_manifest
from pipeline.models.base import Backbone
from pipeline.models.find import MINI_FOLDER
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings
from pipeline.store.word_files import encode_word
from pipeline.training.inversion import learn_to_the_end, new_slot

MANIFEST = Path(__file__).parent / "manifest.csv"
LEARNED = ("duotone", "my-car", "christmas-tree")
# The channels of the demo's car in other orders: what the model draws of a car is mostly red, and these are four colours.
CHANNELS = ((0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0))
SETTINGS = InversionSettings(learning_rate=1e-2, schedule="cosine", min_snr=0.1, early_stop="off")
STYLED = ("a cat", "a pizza", "a car", "a tree")
SEEN_STYLE = "a painting of {} in the style of <duotone>"
TOGETHER, SCENE = "a photo of <my-car> and <christmas-tree>", "a photo of a house on the grass"
TILE, GAP, NAME = 96, 4, 150

Vectors = Mapping[str, np.ndarray]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=folder, default=Path("runs/applications"), metavar="FOLDER", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=whole_number(1, MOST_STEPS), default=48, metavar="N", help="of each word (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures", type=whole_number(3, 1000), default=24, metavar="N",
        help="of a class before and after, for the figures (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    torch.set_num_threads(1)
    backbone, settings = load_backbone("mini"), replace(SETTINGS, steps=arguments.steps)
    concepts = {each.name: each for each in read_manifest(str(MANIFEST)).concepts}
    sets = {name: load_images(find_sources(concepts[name]), backbone.resolution, "centre").pixels for name in LEARNED}
    words = {f"<{name}>": learn(concepts[name], sets[name], backbone, settings).vectors for name in LEARNED}
    cars = np.stack([picture[..., list(order)] for picture, order in zip(sets["my-car"], CHANNELS, strict=True)])
    any_car = replace(concepts["my-car"], name="any-car", placeholder="<any-car>")
    words["<any-car>"] = learn(any_car, cars, backbone, settings).vectors
    arguments.output.mkdir(parents=True, exist_ok=True)
    before, after = (
        drawn(backbone, [f"a photo of {what}"] * arguments.pictures, words) for what in ("a car", "<any-car>")
    )
    scene = drawn(backbone, [SCENE], {})[0]
    filled, hole = inpainted(scene, words["<my-car>"], arguments.output)
    rows = [
        ("style: learned from", list(sets["duotone"])),
        ("style transfer", drawn(backbone, [SEEN_STYLE.format(thing) for thing in STYLED], words)),
        ("two words: learned from", [*sets["my-car"][:2], *sets["christmas-tree"][:2]]),
        ("composition", drawn(backbone, [TOGETHER] * 4, words)),
        ("inpainting a word", [scene, hole, *filled]),
        ("a car, before", before[:6]),
        ("chosen set", list(cars)),
        ("<any-car>, after", after[:6]),
    ]
    sheet(rows).save(arguments.output / "applications.webp", quality=85)
    said = json.dumps(figures(before, after, cars), indent=2)
    (arguments.output / "applications.json").write_text(said + "\n", encoding="utf-8")
    print(said)
    print(arguments.output / "applications.webp")
    return 0


def learn(concept: Concept, pixels: np.ndarray, backbone: Backbone, settings: InversionSettings) -> Word:
    return learn_to_the_end(backbone, new_slot(concept, pixels, backbone, settings))


def drawn(backbone: Backbone, prompts: Sequence[str], words: Mapping[str, Vectors]) -> list[np.ndarray]:
    """A picture of each prompt, uint8 (H, W, 3), from the noises 0, 1, ..."""
    return list(sample(backbone, prompts, range(len(prompts)), words, SamplerSettings("dpm++", 20, 5.0)))


def inpainted(scene: np.ndarray, vectors: Vectors, folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Two pictures of the word in the lower middle of a scene, by diffusers' pipeline and loader; and the scene with its hole."""
    from diffusers import StableDiffusionInpaintPipeline

    pipe: Any = StableDiffusionInpaintPipeline.from_pretrained(
        MINI_FOLDER, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    file = folder / "my-car.safetensors"
    file.write_bytes(encode_word("<my-car>", vectors))
    pipe.load_textual_inversion(str(file))
    side = len(scene)
    mask = np.zeros((side, side), np.uint8)
    mask[side * 3 // 8 : side * 15 // 16, side // 8 : side * 7 // 8] = 255
    pictures = pipe(
        ["a photo of <my-car> on the grass"] * 2, image=[Image.fromarray(scene)] * 2, mask_image=[Image.fromarray(mask)] * 2,
        height=side, width=side, num_inference_steps=30, strength=1.0, guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
    ).images  # fmt: skip
    return [np.asarray(each) for each in pictures], np.where(mask[..., None] > 0, np.uint8(128), scene)


def figures(before: Sequence[np.ndarray], after: Sequence[np.ndarray], chosen: np.ndarray) -> dict[str, float]:
    """Diversity by the shipped CLIP and of mean colours (standard deviation, of 255), before, after, and of the chosen set."""
    clip = load_clip()
    seen = clip.encode_images(list(chosen))
    told: dict[str, float] = {}
    for name, pictures in (("before", before), ("after", after), ("chosen", list(chosen))):
        features = clip.encode_images(pictures)
        colours = np.array([_colour_of_thing(each) for each in pictures])
        told |= {
            f"diversity_{name}": round(float(diversity(features).mean()), 3),
            f"colours_{name}": round(float(colours.std(axis=0).mean()), 1),
        }
        if name != "chosen":
            told[f"similarity_to_chosen_{name}"] = round(float(image_similarity(features, seen).mean()), 3)
    return told


def _colour_of_thing(pixels: np.ndarray) -> np.ndarray:
    """The mean of what is not nearly white (3,)."""
    thing = pixels[pixels.min(axis=2) < 230]
    mean: np.ndarray = (thing if len(thing) else pixels.reshape(-1, 3)).mean(axis=0)
    return mean


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    columns = max(len(pictures) for _, pictures in rows)
    page = Image.new("RGB", (NAME + columns * (TILE + GAP), len(rows) * (TILE + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for place, (name, pictures) in enumerate(rows):
        pen.text((GAP, place * (TILE + GAP) + TILE // 2), name, "black", font)
        for column, pixels in enumerate(pictures):
            small = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
            page.paste(small, (NAME + column * (TILE + GAP), place * (TILE + GAP)))
    return page


if __name__ == "__main__":
    sys.exit(main())
