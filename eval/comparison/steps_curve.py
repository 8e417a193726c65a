"""Scores words at checkpoints of their training, for several recipes on the same concepts, for `compare.py --steps-curve`.

    concepts, a few a Ray task -> one training a recipe, its words kept at checkpoints -> pictures -> scores -> Parquet

One training also gives the result of its early-stop rule: observing the loss changes no word, so the step at which the rule would
stop is a step of this training.
"""

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
from pipeline.protocols import QUICK
from pipeline.records import Concept, Sample
from pipeline.sampling.grid import encode_png
from pipeline.sampling.pictures_of_a_word import draw_pictures, wanted_of
from pipeline.sampling.prompting import requests_for
from pipeline.settings import EarlyStop, InversionSettings
from pipeline.store.storage import Storage
from pipeline.training.early_stopping import VALIDATION_IMAGES, is_look
from pipeline.training.inversion import train_step
from pipeline.training.slot import new_slot

TOGETHER = 4  # concepts in one batch, and in one task
# Eight plain and eight edited pictures per checkpoint; floors belong to the comparison of variants.
PROTOCOL = replace(QUICK, name="curve", edit_images=2, untrained_images=0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """checkpoints: the steps after which words are scored; the last is the step limit, whatever the early-stop rule.
    stopped: the name for the same recipe with the early-stop rule applied; it is scored too, unless the rule is "off".
    """

    name: str
    settings: InversionSettings
    checkpoints: tuple[int, ...]
    stopped: str = ""


def recipes_of(settings: InversionSettings, most: int) -> tuple[Recipe, ...]:
    """settings: ours; its seed is used for all recipes. most: upper limit on the steps of a recipe.

    The published recipes use torch's default weight decay and draw timesteps independently, as their trainers do. Learning rates
    are those of the optimiser, after scaling by the batch size.
    """

    def published(
        steps: int, pictures: int, rate: float, early_stop: EarlyStop = "off", **more: Any
    ) -> tuple[InversionSettings, tuple[int, ...]]:
        budget = min(steps, most)
        followed = InversionSettings(
            steps=budget, batch_size=pictures, learning_rate=rate, weight_decay=0.01, timesteps="uniform",
            early_stop=early_stop, seed=settings.seed, **more,
        )  # fmt: skip
        return followed, checkpoints(budget)

    ours = replace(settings, steps=min(most, settings.steps))
    uniform = replace(ours, timesteps="uniform", early_stop="off")
    return (
        # Two GPUs with four pictures each, 0.005 x 8; DVAR with the window that Voronov et al. give it.
        Recipe("paper", *published(5000, 8, 0.04, "dvar"), "paper with DVAR"),
        # One picture, four times accumulated, 5e-4 x 4. The README for SDXL says the same for 500 steps.
        Recipe("diffusers README", *published(3000, 4, 2e-3)),
        # Their released command: 6.25e-4 x 8. Its regularisation, 1e-5 times a distance, is left out, and its second vector.
        Recipe("Cross Initialization", *published(320, 8, 5e-3, cross_initialised=True)),
        Recipe("wordmint without its early stop", ours, checkpoints(ours.steps), "wordmint"),
        Recipe("wordmint, timesteps not spread", uniform, checkpoints(uniform.steps)),
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
    chunks = [concepts[start : start + TOGETHER] for start in range(0, len(concepts), TOGETHER)]
    seeded = [
        replace(recipe, settings=replace(recipe.settings, seed=recipe.settings.seed + number))
        for number in range(seeds)
        for recipe in recipes
    ]
    parts = [(recipe, chunk) for recipe in seeded for chunk in chunks]
    pending = [task.remote(folder, model, clip, recipe, chunk) for recipe, chunk in parts]
    return [Measured(**row) for table in ray.get(pending) for row in table.to_pylist()]


def _measure_part(folder: Storage, model: Model, clip: str, recipe: Recipe, concepts: Sequence[Concept]) -> pa.Table:
    path = part_of(
        "curve", (model.digest, clip, recipe, PROTOCOL, [(each.name, each.initializer) for each in concepts])
    )
    if (done := kept(folder, path)) is not None:
        return done
    rows = measured(load_backbone(model.name), clip, recipe, concepts)
    table = pa.Table.from_pylist([asdict(row) for row in rows], MEASURED)
    keep(folder, path, table)
    return table


def measured(backbone: Backbone, clip: str, recipe: Recipe, concepts: Sequence[Concept]) -> list[Measured]:
    """Trains these concepts in one batch and scores their words at every checkpoint."""
    torch.set_num_threads(1)
    side = recipe.settings.resolution or backbone.resolution
    pixels = {each.name: load_images(find_sources(each, {}), side, recipe.settings.crop).pixels for each in concepts}
    # The stopping rule is evaluated but not applied, so that training goes on after the step at which it would stop.
    settings = recipe.settings
    slots = [new_slot(each, pixels[each.name], backbone, settings) for each in concepts]
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
        Measured(name, concept, step, step * settings.batch_size, *scorer(concept, vectors), settings.seed)
        for (name, step), words in kept.items()
        for concept, vectors in words.items()
    ]
    if settings.early_stop != "off":
        for concept, (step, vectors) in stopped.items():
            looks = 1 + sum(is_look(each, settings.early_stop, settings.batch_size) for each in range(1, step + 1))
            evaluations = step * settings.batch_size + looks * VALIDATION_IMAGES
            rows.append(Measured(recipe.stopped, concept, 0, evaluations, *scorer(concept, vectors), settings.seed))
    return rows


class Scoring:
    """Draws and scores one word at a time."""

    def __init__(
        self, backbone: Backbone, clip: str, concepts: Mapping[str, Concept], pixels: Mapping[str, np.ndarray]
    ) -> None:
        self._backbone, self._clip, self._concepts = backbone, load_clip(clip), concepts
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
