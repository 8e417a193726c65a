"""Scores words at checkpoints of their training, for several recipes on the same concepts, for `compare.py --steps-curve`.

    concepts, one a Ray task -> one training a recipe, its words kept at checkpoints -> pictures -> scores -> Parquet

One training also gives the result of its early-stop rule: observing the loss changes no word, so the step at which the rule would
stop is a step of this training.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from eval.comparison.curve import MEASURED, Measured
from eval.comparison.kept_parts import keep, kept, part_of
from eval.judges.clip import load_clip
from eval.scores.encoded import encode_concept
from eval.scores.scoring import score_concept
from pipeline.inputs.image_sets import find_sources, load_images
from pipeline.models.base import Backbone
from pipeline.models.find import Model
from pipeline.models.load import load_backbone
from pipeline.models.start_encoder import StartEncoder, load_start_encoder
from pipeline.protocols import PROTOCOLS
from pipeline.records import Concept, Sample
from pipeline.sampling.grid import encode_png
from pipeline.sampling.pictures_of_a_word import draw_pictures, wanted_of
from pipeline.sampling.prompting import requests_for
from pipeline.sampling.sampler import OF_NOUN, STEPS_OF_NOUN, pictures_of_noun
from pipeline.settings import InversionSettings
from pipeline.store.storage import Storage
from pipeline.training.early_stopping import VALIDATION_IMAGES, is_look
from pipeline.training.inversion import train_step
from pipeline.training.slot import SideInformation, new_slot

# U-Net evaluations of a start from pictures: the model's own of the initializer, guided.
START_COST = 2 * OF_NOUN * STEPS_OF_NOUN
PROTOCOL = PROTOCOLS["compare-v2"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """checkpoints: the steps after which words are scored; the last is the step limit, whatever the early-stop rule.
    stopped: the name for the same recipe with the early-stop rule applied; it is scored too, unless the rule is "off".
    vectors: of each word.
    """

    name: str
    settings: InversionSettings
    checkpoints: tuple[int, ...]
    stopped: str = ""
    vectors: int = 1


def recipes_of(settings: InversionSettings, most: int, vectors: int = 1) -> tuple[Recipe, ...]:
    """settings, vectors: ours; the seed is used for all recipes. most: upper limit on the steps of a recipe.

    Each published recipe is that of its authors' command; learning rates are those of the optimiser, after they are scaled by the
    pictures of a step. All draw timesteps independently, and all with AdamW use torch's default weight decay. What they share is
    ours: pictures are cropped in the centre, and words start from their class.
    """

    def published(
        name: str, steps: int, pictures: int, rate: float, stopped: str = "", vectors: int = 1, **more: Any
    ) -> Recipe:
        budget = min(steps, most)
        followed = InversionSettings(
            steps=budget, batch_size=pictures, learning_rate=rate, timesteps="uniform", seed=settings.seed,
            **{"weight_decay": 0.01, "early_stop": "off", **more},
        )  # fmt: skip
        return Recipe(name, followed, checkpoints(budget), stopped, vectors)

    ours = replace(settings, steps=min(most, settings.steps))
    uniform = replace(ours, timesteps="uniform", early_stop="off")
    name = "wordmint" if ours.early_stop == "off" else "wordmint without its early stop"
    return (
        # Gal et al. 2022, section 3: two GPUs with four pictures each, 0.005 x 8. The released configuration has 6,100 steps.
        published("paper", 5000, 8, 0.04),
        # README of examples/textual_inversion: one picture, four times accumulated, 5e-4 x 4. That for SDXL says the same for 500
        # steps, which is a checkpoint of this one.
        published("diffusers README", 3000, 4, 2e-3),
        # README of github.com/yandex-research/DVAR: two pictures, 5e-3 x 2, a window of 310 steps and a threshold of 0.15. They
        # look at four pictures after every step; we look at eight after every 48th (early_stopping.py).
        published("DVAR's training", 6100, 2, 0.01, "DVAR", early_stop="dvar"),
        # README of github.com/lyuPang/CrossInitialization: 6.25e-4 x 8, two vectors. Its regularisation is left out: 1e-5 times the
        # distance from the start, where ours is squared. They start from names of people, for faces.
        published("Cross Initialization", 320, 8, 5e-3, vectors=2, cross_initialised=True),
        # README of github.com/kunheek/dti, for SDXL: kappa 1e-4; their script has no flips. Their launcher of all subjects passes
        # --scale_lr as well, which makes the rate 0.04.
        published("Directional", 400, 4, 0.01, weight_decay=0.0, optimiser="directional", flip=False),
        Recipe(name, ours, checkpoints(ours.steps), "" if ours.early_stop == "off" else "wordmint", vectors),
        Recipe("wordmint, timesteps not spread", uniform, checkpoints(uniform.steps), vectors=vectors),
    )


def checkpoints(budget: int) -> tuple[int, ...]:
    """0, 12, 25, 50, ..., 500, where the README for SDXL ends, and the budget.

    >>> checkpoints(300)
    (0, 12, 25, 50, 100, 200, 300)
    """
    doubling = sorted([0, 12, 500, *(25 * 2**power for power in range(20))])
    return (*(step for step in doubling if step < budget), budget)


def measure(
    concepts: Sequence[Concept], model: Model, clip: str, recipes: Sequence[Recipe], folder: Storage, seeds: int = 1
) -> list[Measured]:
    """Scores of every concept at every recipe's checkpoints; results of an earlier call are read instead of measured again.

    seeds: number of trainings of each, with the recipe's seed and the following ones.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(_measure_part)
    seeded = [
        replace(recipe, settings=replace(recipe.settings, seed=recipe.settings.seed + number))
        for number in range(seeds)
        for recipe in recipes
    ]
    parts = [(recipe, [concept]) for recipe in seeded for concept in concepts]
    pending = [task.remote(folder, model, clip, recipe, chunk) for recipe, chunk in parts]
    return [Measured(**row) for table in ray.get(pending) for row in table.to_pylist()]


def _measure_part(folder: Storage, model: Model, clip: str, recipe: Recipe, concepts: Sequence[Concept]) -> pa.Table:
    path = part_of(
        "curve", (model.digest, clip, recipe, PROTOCOL, [(each.name, each.initializer) for each in concepts])
    )
    if (done := kept(folder, path)) is not None:
        return done
    encoder = load_start_encoder(model) if recipe.settings.start == "pictures" else None
    rows = measured(_backbone(model.name), clip, recipe, concepts, encoder)
    table = pa.Table.from_pylist([asdict(row) for row in rows], MEASURED)
    keep(folder, path, table)
    return table


# Kept by a Ray worker, which measures many words one after the other.
_backbone = functools.lru_cache(maxsize=1)(load_backbone)
_clip = functools.lru_cache(maxsize=1)(load_clip)


def measured(
    backbone: Backbone, clip: str, recipe: Recipe, concepts: Sequence[Concept], encoder: StartEncoder | None = None
) -> list[Measured]:
    """Trains these concepts in one batch and scores their words at every checkpoint. encoder: for a start from pictures."""
    torch.set_num_threads(1)
    side = recipe.settings.resolution or backbone.resolution
    pixels = {each.name: load_images(find_sources(each, {}), side, recipe.settings.crop).pixels for each in concepts}
    # The stopping rule is evaluated but not applied, so that training goes on after the step at which it would stop.
    settings = recipe.settings
    concepts = [replace(each, vectors=recipe.vectors) for each in concepts]
    starts = {each.name: _start(backbone, encoder, each, pixels[each.name]) for each in concepts}
    slots = [new_slot(each, pixels[each.name], backbone, settings, starts[each.name][0]) for each in concepts]
    kept: dict[tuple[str, int], dict[str, dict[str, np.ndarray]]] = {}
    stopped: dict[str, tuple[int, Mapping[str, np.ndarray]]] = {}
    for step in range(settings.steps + 1):
        if step in recipe.checkpoints:
            kept[recipe.name, step] = {slot.concept.name: _vectors(slot.words) for slot in slots}
        if step < settings.steps:
            for slot, _ in train_step(backbone, slots):
                stopped.setdefault(slot.concept.name, (slot.step, _vectors(slot.best or slot.words)))
    scorer = Scoring(backbone, clip, {each.name: each for each in concepts}, pixels)
    rows = [
        Measured(
            name,
            concept,
            step,
            starts[concept][1] + step * settings.batch_size,
            *scorer(concept, vectors),
            settings.seed,
        )
        for (name, step), words in kept.items()
        for concept, vectors in words.items()
    ]
    if settings.early_stop != "off":
        for concept, (step, vectors) in stopped.items():
            looks = 1 + sum(is_look(each, settings.early_stop, settings.batch_size) for each in range(1, step + 1))
            evaluations = starts[concept][1] + step * settings.batch_size + looks * VALIDATION_IMAGES
            rows.append(Measured(recipe.stopped, concept, 0, evaluations, *scorer(concept, vectors), settings.seed))
    return rows


def _start(
    backbone: Backbone, encoder: StartEncoder | None, concept: Concept, pixels: np.ndarray
) -> tuple[SideInformation, int]:
    """What a worker hands to a slot for a start from pictures, which only objects have; and its U-Net evaluations."""
    if encoder is None or concept.kind != "object":
        return SideInformation(), 0
    seen = encoder.vectors(pixels)
    if concept.initializer is None:
        return SideInformation(pictured=seen), 0
    drawn = encoder.vectors(pictures_of_noun(backbone, concept.initializer))
    return SideInformation(pictured=seen, drawn=drawn), START_COST


class Scoring:
    """Draws and scores one word at a time."""

    def __init__(
        self, backbone: Backbone, clip: str, concepts: Mapping[str, Concept], pixels: Mapping[str, np.ndarray]
    ) -> None:
        self._backbone, self._clip, self._concepts = backbone, _clip(clip), concepts
        self._training = {
            name: [Sample(name, "training", "", "", index, 0, encode_png(each)) for index, each in enumerate(some)]
            for name, some in pixels.items()
        }

    def __call__(self, name: str, vectors: Mapping[str, np.ndarray]) -> tuple[float, float]:
        """(image similarity, mean text similarity over the edits); nan for a diverged word."""
        if not all(np.isfinite(some).all() for some in vectors.values()):
            return math.nan, math.nan
        concept = self._concepts[name]
        requests = requests_for(concept, PROTOCOL, 0)
        pictures = draw_pictures(self._backbone, wanted_of(self._backbone, concept, vectors, requests), PROTOCOL)
        encoded = encode_concept([*self._training[name], *pictures], self._clip)
        scores = score_concept(encoded, self._clip, np.random.default_rng(0))
        texts = [each.value for each in scores if each.metric == "text_similarity"]
        return scores[0].value, float(np.mean(texts))


def _vectors(words: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: word.detach().cpu().numpy().copy() for name, word in words.items()}
