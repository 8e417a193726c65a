"""A run folder of three words on a tiny model, and its evaluation without Ray."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from eval.judges.judge import Features, Judge, Picture
from eval.scores.drawn_pictures import draw_part
from eval.scores.fragments import fragments
from eval.scores.metric_table import expected_metrics
from eval.scores.score_run import Judgement, conditions, score_part, take_in_part, unscored
from eval.scores.summary import Summary
from jobs.application.report_run import summarise_run
from pipeline.models.load import load_backbone
from pipeline.protocols import Protocol
from pipeline.records import Concept, ImageSet, Sample, Word
from pipeline.sampling.grid import encode_png
from pipeline.sampling.pictures_of_a_word import draw_concept
from pipeline.store.parts import create_layout, part_path, read_layout, read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import embedding_rows, sample_rows
from tests.eval.scores.test_scoring import ColourClip
from tests.tiny_model import WIDTH

PROTOCOL = Protocol(
    "tiny", 1, {"object": "a photo of {}"}, {"object": ("{} at night",)}, 2, 2, 1, "ddim", 2, 3.0, digest="d" * 64
)
OTHER = replace(PROTOCOL, name="other", edits={"object": ("{} at night", "a dark {}")})
NAMES = ("ant", "bee", "cow")


class Colours(ColourClip):
    """A picture's feature is its colours, coarsely and how they differ from grey; a text's says nothing."""

    name = "colours"

    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        small = [
            np.asarray(Image.fromarray(np.asarray(each)).convert("RGB").resize((4, 4)), float) for each in pictures
        ]
        rows = np.stack(small).reshape(len(small), -1) - 127.5
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Features:
        return np.full((len(texts), 48), 48**-0.5, np.float32)


def vectors(seed: int) -> dict[str, np.ndarray]:
    return {"text_encoder": np.random.default_rng(seed).normal(scale=0.03, size=(1, WIDTH)).astype(np.float32)}


def concept(name: str) -> Concept:
    return Concept(name, (), f"<{name}>", noun="cat", carried={"shop": "north" if name < "c" else "south"})


def learn(run: RunFolder, model: Path, words: Mapping[str, int], protocol: Protocol = PROTOCOL) -> None:
    """Writes what the job leaves of these words: concept -> the seed of its vectors, which also is its fingerprint."""
    backbone = load_backbone(str(model))
    rng = np.random.default_rng(0)
    embeddings, samples = [], []
    for name, seed in sorted(words.items()):
        pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        word = Word(name, f"<{name}>", vectors(seed), vectors(seed), "cat", 9, "steps", 1e-3, 0.1, 1.0)
        embeddings.append(embedding_rows(concept(name), f"f{seed}", word, ImageSet(pixels, ("a", "b"), ("x", "y"))))
        drawn = draw_concept(backbone, concept(name), word.vectors, protocol, seed=0)
        training = [Sample(name, "training", "", "", index, 0, encode_png(each)) for index, each in enumerate(pixels)]
        samples.append(sample_rows(f"f{seed}", [*training, *drawn]))
    create_layout(run, len(words))
    write_table(run, part_path("embeddings", 0, 1), pa.concat_tables(embeddings))
    write_table(run, part_path("samples", 0, 1), pa.concat_tables(samples))


def evaluate(run: RunFolder, judgement: Judgement, scorer: Judge | None = None) -> int:
    """What score_run does, in this process; returns how many were scored. scorer: None is Colours."""
    parts, under = read_layout(run), conditions(judgement)
    metrics = expected_metrics(judgement.protocol, judgement.reads_texts, judgement.answers)
    todo = unscored(run, 0, parts, under, metrics, judgement.keep_features)
    failures = []
    if todo and judgement.drawing:
        failures = draw_part(run, 0, todo, parts, judgement.protocol, judgement.drawing, Colours)
    fresh, failed = score_part(run, 0, todo, parts, judgement, scorer or Colours()) if todo else (0, [])
    for part, names in fragments(run).items():
        take_in_part(run, part, names, parts)
    assert not failures + failed
    return fresh


def summary(run: RunFolder, judgement: Judgement) -> Summary:
    return summarise_run(run, conditions(judgement))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture).astype(int)


def rows_of(run: RunFolder, path: str) -> list[dict[str, Any]]:
    table = read_table(run, path)
    assert table is not None
    return list(table.to_pylist())


def files(run: RunFolder) -> dict[str, bytes]:
    return {path: run.storage.read_bytes(path) for path in run.storage.find()}
