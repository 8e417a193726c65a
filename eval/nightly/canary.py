"""The canary: a few pictures kept from the first night, scored and drawn again on every later one, with the same words.

    canary/<protocol>/samples.parquet   their pictures and training images: pinned once, never replaced
    canary/<protocol>/words.parquet     the words they were drawn from
    canary/<protocol>/scores.parquet    each CLIP's first score of each picture, by the CLIP's name

If the scores of the kept pictures change, the CLIP or a library has changed. If pictures of the same words and seeds change, the
model's weights, the scheduler or the arithmetic has changed.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from eval.judges.judge import ImageScorer, load_scorer
from eval.nightly.history import CanaryReading
from eval.scores.drawn_pictures import RunModel, learned_words, pictures_of, words_of
from eval.scores.encoded import encode_concept
from eval.scores.metrics import Floats, image_similarity
from eval.scores.score_run import Judgement
from pipeline.models.load import load_backbone
from pipeline.records import Sample
from pipeline.sampling.picture_pool import Wanted
from pipeline.sampling.pictures_of_a_word import draw_pictures
from pipeline.sampling.prompting import requests_for
from pipeline.store.parts import part_path, read_layout, read_rows, read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import SAMPLES, sample_rows, samples_of

CONCEPTS, PICTURES = 4, 4

SCORES = pa.schema([
    ("concept", pa.string()), ("prompt", pa.string()), ("index", pa.int64()), ("clip", pa.string()),
    ("clip_digest", pa.string()), ("night", pa.string()), ("value", pa.float64()),
])  # fmt: skip


def read_canary(run: RunFolder, judgement: Judgement, night: str) -> CanaryReading | None:
    """Compares tonight with the canary; the first call creates it. None if the run has no word with pictures. One Ray task."""
    gpus = 1 if judgement.device == "cuda" else 0
    reading: CanaryReading | None = ray.get(
        ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(canary_reading).remote(run, judgement, night)
    )
    return reading


def canary_reading(run: RunFolder, judgement: Judgement, night: str) -> CanaryReading | None:
    folder = f"canary/{judgement.protocol.label}"
    samples = read_rows(run, f"{folder}/samples.parquet", SAMPLES)
    if samples is None:
        samples = _pin(run, judgement, folder)
    if samples is None:
        return None
    scorer = load_scorer(judgement.clip, judgement.device)
    kept = samples_of(samples)
    features = _features(kept, scorer)
    tonight = {key: value for key, (value, _) in features.items()}
    first, since = _first_scores(run, folder, scorer, night, tonight)
    drawn = math.nan
    if judgement.drawing:
        again = _features(_drawn_again(run, judgement, judgement.drawing, folder, kept), scorer)
        # Rounding can make the cosine of a picture with itself larger than one.
        drawn = max(0.0, float(np.mean([1 - features[key][1] @ again[key][1] for key in again])))
    return CanaryReading(since, len(first), max(abs(tonight[key] - first[key]) for key in first), drawn)


Key = tuple[str, str, int]  # concept, prompt, index


def _pin(run: RunFolder, judgement: Judgement, folder: str) -> pa.Table | None:
    """Keeps the first pictures of the first few words with pictures in the run's first part."""
    parts = read_layout(run)
    words = learned_words(run, 0, parts)
    seed = judgement.drawing.seed if judgement.drawing else None
    tables = []
    for word, samples in pictures_of(run, dict(sorted(words.items())[:CONCEPTS]), parts, judgement.protocol, seed):
        kept = [each for each in samples if each.kind in ("training", "reconstruction") and each.index < PICTURES]
        tables.append(sample_rows(word.fingerprint, kept))
    if not tables:
        return None
    samples = pa.concat_tables(tables)
    embeddings = read_table(run, part_path("embeddings", 0, parts["embeddings"]))
    assert embeddings is not None, "the words came from it"
    write_table(run, f"{folder}/words.parquet", embeddings.filter(pc.is_in(embeddings["concept"], samples["concept"])))
    run.storage.delete(f"{folder}/scores.parquet")  # of other pictures, where these are pinned anew
    # Written last: this file marks the canary as complete.
    write_table(run, f"{folder}/samples.parquet", samples)
    return samples


def _features(samples: list[Sample], scorer: ImageScorer) -> dict[Key, tuple[float, Floats]]:
    """Each plain picture's image similarity to its concept's training images, and its feature (D,)."""
    features: dict[Key, tuple[float, Floats]] = {}
    for name in sorted({each.concept for each in samples}):
        encoded = encode_concept([each for each in samples if each.concept == name], scorer)
        values: Floats = image_similarity(encoded.plain, encoded.of("training"))
        plain = [each for each in encoded.samples if each.kind == "reconstruction"]
        features |= {
            (name, each.prompt, each.index): (float(value), feature.astype(np.float64))
            for each, value, feature in zip(plain, values, encoded.plain, strict=True)
        }
    return features


def _first_scores(
    run: RunFolder, folder: str, scorer: ImageScorer, night: str, tonight: dict[Key, float]
) -> tuple[dict[Key, float], str]:
    """(This CLIP's first score of each picture, its night); tonight's scores if it has not scored all of them."""
    path = f"{folder}/scores.parquet"
    table = read_rows(run, path, SCORES)
    rows = [] if table is None else [row for row in table.to_pylist() if None not in row.values()]
    mine = [row for row in rows if row["clip"] == scorer.name]
    if {_key(row) for row in mine} != tonight.keys():
        rows = [row for row in rows if row["clip"] != scorer.name]
        mine = [
            {"concept": name, "prompt": prompt, "index": index, "clip": scorer.name, "clip_digest": scorer.fingerprint,
             "night": night, "value": value}
            for (name, prompt, index), value in sorted(tonight.items())
        ]  # fmt: skip
        write_table(run, path, pa.Table.from_pylist([*rows, *mine], SCORES))
    return {_key(row): row["value"] for row in mine}, mine[0]["night"]


def _key(row: Mapping[str, Any]) -> Key:
    return row["concept"], row["prompt"], row["index"]


def _drawn_again(
    run: RunFolder, judgement: Judgement, model: RunModel, folder: str, kept: list[Sample]
) -> list[Sample]:
    """The kept samples with their plain pictures drawn anew."""
    backbone = load_backbone(model.model, model.device, model.settings, model.options)
    again = {(each.concept, each.kind, each.index): each for each in kept}
    wanted = [
        Wanted(word.concept, each, word.vectors)
        for name, word in words_of(read_table(run, f"{folder}/words.parquet")).items()
        for each in requests_for(word.concept, judgement.protocol, model.seed)
        if (name, each.kind, each.index) in again
    ]
    for drawn in draw_pictures(backbone, wanted, judgement.protocol, model.resolution):
        key = (drawn.concept, drawn.kind, drawn.index)
        again[key] = replace(again[key], png=drawn.png)
    return list(again.values())
