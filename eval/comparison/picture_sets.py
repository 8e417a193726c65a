"""Smaller picture sets of the same concepts, for compare.py: the paper's study of set size, and of curation.

Each set's words are compared with all pictures of their concept, in the base's features: a word of one picture would otherwise be
asked for nothing but that picture.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.scores.confusion import FEATURES
from eval.scores.metrics import Floats
from pipeline.records import Concept
from pipeline.store.parts import read_layout, read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS


def picture_set(base: RunFolder, count: int, curated: bool) -> dict[str, list[str]]:
    """Concept -> `count` of the pictures that the base was trained on: its first ones, or those most like the others.

    Concepts with fewer pictures are left out.
    """
    parts = read_layout(base)
    rows = read_parts(base, "embeddings", parts["embeddings"], EMBEDDINGS).select(["concept", "images"]).to_pylist()
    features = {row["concept"]: row["pictures"] for row in _features(base)}
    sets = {}
    for row in rows:
        name, images = row["concept"], row["images"]
        if len(images) >= count and name in features:
            order = _typical(np.array(features[name], np.float64)) if curated else range(len(images))
            sets[name] = [images[place] for place in sorted(order[:count])]
    return sets


def manifest_of(concepts: Sequence[Concept], sets: dict[str, list[str]]) -> bytes:
    """A CSV manifest of these concepts with the sets in place of their pictures."""
    carried = sorted({column for each in concepts for column in each.carried})
    sink = io.StringIO()
    writer = csv.DictWriter(sink, ["concept", "images", "class", "initializer", "kind", "placeholder", *carried])
    writer.writeheader()
    for each in concepts:
        if each.name in sets:
            own = {
                "concept": each.name, "images": json.dumps(sets[each.name]), "class": each.noun or "",
                "initializer": each.initializer or "", "kind": each.kind, "placeholder": each.placeholder,
            }  # fmt: skip
            writer.writerow({**each.carried, **own})
    return sink.getvalue().encode()


def similarity_to_all(run: RunFolder, base: RunFolder) -> dict[str, float]:
    """Concept -> mean image similarity of the run's plain pictures to the base's training pictures."""
    training = {row["concept"]: np.array(row["training"], np.float64) for row in _features(base)}
    return {
        row["concept"]: float((np.array(row["samples"], np.float64) @ training[row["concept"]]).mean())
        for row in _features(run)
        if row["concept"] in training
    }


def _typical(features: Floats) -> list[int]:
    """The pictures' places, those with the highest mean cosine to the others first."""
    cosines = features @ features.T
    return [int(place) for place in np.argsort(-(cosines.sum(axis=1) - np.diag(cosines)), kind="stable")]


def _features(run: RunFolder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_parts(run, "features", read_layout(run)["scores"], FEATURES).to_pylist()
    return rows
