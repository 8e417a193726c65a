"""Learned words of finished runs, beside the CLIP features of their concepts' pictures, as the run folders keep them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eval.scores.confusion import FEATURES
from pipeline.records import Kind
from pipeline.store.parts import read_layout, read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS

WORDS = (
    "concept",
    "fingerprint",
    "text_encoder",
    "vectors",
    "placeholder",
    "initializer",
    "kind",
    "steps",
    "stopped_by",
)


class ArchiveError(ValueError):
    """Runs have no words that a map could be fitted to. The message says what was found and what would do."""


@dataclass(frozen=True, slots=True)
class ArchivedWord:
    """run: its place among the runs. feature (F,): the mean CLIP feature of the concept's pictures.

    vectors: text encoder -> float32 (V, D). initializer: "" for none.
    """

    run: int
    concept: str
    fingerprint: str
    placeholder: str
    initializer: str
    kind: Kind
    vectors: dict[str, np.ndarray]
    feature: np.ndarray

    @property
    def key(self) -> tuple[str, int]:
        """Kind and number of vectors: words that have these in common share a map."""
        return self.kind, len(next(iter(self.vectors.values())))


@dataclass(frozen=True, slots=True)
class Archive:
    """words: with features. unlearned, unscored: how many words were left out, as no step was taken for them or they have no
    feature of this CLIP. clip_digest: of the CLIP whose features these are.
    """

    words: tuple[ArchivedWord, ...]
    clip_digest: str
    unlearned: int
    unscored: int


def read_archive(runs: Sequence[RunFolder], clip: str) -> Archive:
    """clip: name of the CLIP whose features are taken. Raises ArchiveError and StorageError."""
    archived: list[ArchivedWord] = []
    digests: set[str] = set()
    unlearned = unscored = 0
    for number, run in enumerate(runs):
        parts = read_layout(run)
        schema = pa.schema([EMBEDDINGS.field(name) for name in WORDS])
        words: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in read_parts(run, "embeddings", parts["embeddings"], schema).to_pylist():
            words[row["concept"], row["fingerprint"]].append(row)
        features = {
            (row["concept"], row["fingerprint"]): row
            for row in read_parts(run, "features", parts["scores"], FEATURES).to_pylist()
            if row["clip"] == clip
        }
        for key, rows in sorted(words.items()):
            first, feature = rows[0], features.get(key)
            if not first["steps"] and first["stopped_by"] != "imported":
                unlearned += 1
            elif feature is None:
                unscored += 1
            else:
                digests.add(feature["clip_digest"])
                vectors = {row["text_encoder"]: np.array(row["vectors"], np.float32) for row in rows}
                seen = np.array(feature["training"], np.float32)
                archived.append(
                    ArchivedWord(
                        number, *key, first["placeholder"], first["initializer"] or "", first["kind"], vectors, seen
                    )
                )
    if not archived:
        raise ArchiveError(
            f"no learned word of these runs has features of the CLIP {clip!r} ({unscored} are not scored by it, for "
            f"{unlearned} no step was taken): score the runs with jobs/evaluate.py, or name another --clip"
        )
    if len(digests) > 1:
        raise ArchiveError(
            f"these runs were scored by {len(digests)} CLIPs named {clip!r} with different weights; take runs of one of them"
        )
    if len({frozenset(word.vectors) for word in archived}) > 1:
        raise ArchiveError(
            "these runs learned words in different text encoders, or before and behind them; take runs with the same --encoders "
            "and --word-place"
        )
    return Archive(tuple(archived), digests.pop(), unlearned, unscored)
