"""The ways of learning a word that compare.py compares, and their points in the plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
import torch

from eval.comparison.kept_parts import keep, kept, part_of
from eval.comparison.plane import Point, point_rows, points_of
from eval.judges.judge import ClipScorer, load_scorer
from eval.scores.drawn_pictures import RunModel, learned_words, pictures_of
from eval.scores.encoded import encode_concept
from eval.scores.scoring import score_concept
from pipeline.models.base import PromptError, in_its_place
from pipeline.models.load import load_backbone
from pipeline.protocols import Protocol
from pipeline.sampling.pictures_of_a_word import draw_pictures, wanted_of
from pipeline.sampling.prompting import requests_for
from pipeline.settings import ModelSettings
from pipeline.store.parquet.parquet_tables import stored_table
from pipeline.store.parts import read_layout
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage

BASE, CAPTION, NO_WORD = "1 vector", "human caption", "no word"


@dataclass(frozen=True, slots=True)
class Variant:
    """folder: of its run, in the output. vectors: per word. settings: InversionSettings that differ from the common ones.

    pictures: how many of each concept's it is trained on, None for all; curated: those most like the others, not the first ones.
    """

    name: str
    folder: str
    vectors: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    pictures: int | None = None
    curated: bool = False

    def __str__(self) -> str:
        told = {"vectors": self.vectors, **self.settings} | ({"pictures": self.pictures} if self.pictures else {})
        return ", ".join(f"{name} {value}" for name, value in told.items())


# Section 5.2 of Gal et al. 2022; the rates are its 2e-2 and 1e-4, whatever the base's rate (0.01 for the shipped model). The paper
# gives no weight for its regularisation.
TRAINED = (
    Variant(BASE, "one-vector"),
    Variant("2 vectors", "two-vectors", vectors=2),
    Variant("3 vectors", "three-vectors", vectors=3),
    Variant("progressive", "progressive", vectors=3, settings={"progressive": 0.4}),
    Variant("regularised", "regularised", settings={"regularisation": 0.1}),
    Variant("per image", "per-image", settings={"per_image": 0.25}),
    Variant("high rate", "high-rate", settings={"learning_rate": 0.02}),
    Variant("low rate", "low-rate", settings={"learning_rate": 0.0001}),
    # As published: our default spreads a step's timesteps over all times.
    Variant("uniform timesteps", "uniform-timesteps", settings={"timesteps": "uniform"}),
    # Kim et al. 2025; the rate of its authors' code.
    Variant("directional", "directional", settings={"optimiser": "directional", "learning_rate": 0.01}),
)

# Where a word stands; the rates are those of jobs/bench/word_kinds.py and of Kim et al., and nobody has tuned them. Such words
# cannot start from pictures.
BEHIND = {"word_place": "output", "start": "words"}
PLACES = (
    Variant("behind the encoder", "behind", settings={**BEHIND, "learning_rate": 0.1}),
    Variant(
        "directional behind the encoder", "directional-behind",
        settings={**BEHIND, "optimiser": "directional", "learning_rate": 0.01},
    ),
)  # fmt: skip

# The paper's study of set size (appendix B), of 1 to 25 pictures, and of which pictures are chosen.
SETS = (
    *(
        Variant(f"{count} picture{'s' if count > 1 else ''}", f"pictures-{count}", pictures=count)
        for count in (1, 2, 3, 5, 10, 25)
    ),
    Variant("3 curated pictures", "pictures-3-curated", pictures=3, curated=True),
)


def folder_of(variant: Variant, seed: int) -> str:
    """Of its run with a training seed."""
    return variant.folder + (f"-seed-{seed}" if seed else "")


def points_of_run(run: RunFolder, name: str, seed: int = 0) -> list[Point]:
    made = run.read_json("run.json")
    batch = int(made["settings"]["batch_size"])
    return [
        Point(name, row["concept"], _number(row["reconstruction"]), _number(row["editability"]), row["steps"] * batch,
              row["seconds"], seed)
        for row in _concepts(run)
    ]  # fmt: skip


def ceilings(run: RunFolder) -> list[float]:
    """Of each concept: its training pictures' similarity to each other."""
    return [_number(row["reconstruction_ceiling"]) for row in _concepts(run)]


def untrained_points(
    run: RunFolder, column: str | None, model: str, clip: str, device: str, output: Storage
) -> list[Point]:
    """Points of the frozen model alone, from the noise of the run's own pictures; one Ray task per part.

    column: a person's caption, from this column of the manifest, stands in place of the word; None: the word as it was before
    training. output: keeps them; they do not depend on what was learned, and are drawn once for all variants and seeds.
    """
    parts = read_layout(run)
    gpus = 1 if device == "cuda" else 0
    draw: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_untrained_points)
    tasks = [
        draw.remote(run, number, parts, column, model, clip, device, output) for number in range(parts["embeddings"])
    ]
    return [point for task in tasks for point in ray.get(task)]


def _untrained_points(
    run: RunFolder,
    number: int,
    parts: Mapping[str, int],
    column: str | None,
    named: str,
    clip: str,
    device: str,
    output: Storage,
) -> Sequence[Point]:
    torch.set_num_threads(1)
    made = run.read_json("run.json")
    held = ModelSettings(**made["model_settings"])
    model = RunModel(named, device, held, made["settings"]["seed"], made["settings"]["resolution"])
    protocol = Protocol.of_dict(made["protocol_settings"])
    words = learned_words(run, number, parts)
    if column is not None:
        words = {name: word for name, word in words.items() if word.concept.carried.get(column)}
    if not words:
        return []
    of = [(name, word.fingerprint, column and word.concept.carried[column]) for name, word in sorted(words.items())]
    path = part_of("untrained", (made["model_digest"], clip, protocol, model.seed, column, of))
    if (done := kept(output, path)) is not None:
        return points_of(done)
    backbone, scorer = load_backbone(model.model, device, held), load_scorer(clip, device)
    points = []
    for word, samples in pictures_of(run, words, parts, protocol, model.seed):
        concept = word.concept
        requests = [each for each in requests_for(concept, protocol, model.seed) if each.trained]
        if column is None:
            requests = [replace(each, trained=False) for each in requests]
        else:
            caption = concept.carried[column]
            requests = [
                replace(each, prompt=in_its_place(each.prompt, concept.placeholder, caption)) for each in requests
            ]
        try:
            drawn = draw_pictures(
                backbone, wanted_of(backbone, concept, word.vectors, requests), protocol, model.resolution
            )
        except PromptError:
            continue  # a caption that is too long for the model gives no point
        training = [each for each in samples if each.kind == "training"]
        texts = scorer if isinstance(scorer, ClipScorer) else None
        scores = score_concept(encode_concept([*training, *drawn], scorer), texts, np.random.default_rng(0))
        edits = [each.value for each in scores if each.metric == "text_similarity"]
        points.append(Point(untrained_name(column), concept.name, scores[0].value, float(np.mean(edits))))
    keep(output, path, point_rows(points))
    return points


def untrained_name(column: str | None) -> str:
    return NO_WORD if column is None else f"{CAPTION}, {column}"


def _concepts(run: RunFolder) -> list[dict[str, Any]]:
    return list(stored_table(run.storage, "report/concepts.parquet").to_pylist())


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
