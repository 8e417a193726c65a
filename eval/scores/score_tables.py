"""Scores as rows of `scores/*.parquet`, with the conditions they were made under.

A value that could not be computed is nan in a record and null in a table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eval.judges.judge import ClipScorer, Judge
from eval.scores.encoded import Encoded
from pipeline.models.base import in_its_place
from pipeline.protocols import Protocol
from pipeline.records import Concept, Score
from pipeline.store.run_tables import KEY

SCORES = pa.schema([
    *KEY, ("prompt", pa.string()), ("difficulty", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
    ("n", pa.int64()), ("low", pa.float64()), ("high", pa.float64()), ("floor", pa.float64()), ("ceiling", pa.float64()),
    ("covered", pa.float64()), ("floor_noun", pa.float64()), ("floor_wordless", pa.float64()),
    ("protocol", pa.string()), ("model", pa.string()), ("model_digest", pa.string()), ("clip", pa.string()),
    ("clip_digest", pa.string()), ("sampler", pa.string()), ("sampler_steps", pa.int64()), ("guidance", pa.float64()),
    ("metric_version", pa.string()),
])  # fmt: skip


# With --keep-features. kind: of the picture, or "text" (an edit prompt without the word) or "class" (the plain prompt with the
# class in the word's place); text: what was read of these. feature: of length one.
PICTURE_FEATURES = pa.schema([
    *KEY, ("protocol", pa.string()), ("clip", pa.string()), ("clip_digest", pa.string()), ("kind", pa.string()),
    ("prompt", pa.string()), ("text", pa.string()), ("index", pa.int64()), ("seed", pa.int64()),
    ("feature", pa.list_(pa.float32())),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScoredUnder:
    """The conditions of a score. Scores may be compared if all of them are equal.

    protocol: its label, "quick-v1". model, clip: names as the user gave them; the digests identify them.
    """

    protocol: str
    model: str
    model_digest: str
    clip: str
    clip_digest: str
    sampler: str
    sampler_steps: int
    guidance: float

    @classmethod
    def of(cls, protocol: Protocol, model: str, model_digest: str, clip: Judge) -> "ScoredUnder":
        return cls(
            protocol.label,
            model,
            model_digest,
            clip.name,
            clip.fingerprint,
            protocol.sampler,
            protocol.steps,
            protocol.guidance,
        )


CONDITIONS = [each.name for each in fields(ScoredUnder)]


def score_rows(
    fingerprint: str, scores: Sequence[Score], under: ScoredUnder, protocol: Protocol | None = None
) -> pa.Table:
    """The scores of one word as a table of SCORES. fingerprint: of the word.

    protocol: gives each prompt's class of difficulty, if it has such classes.
    """
    return pa.Table.from_pylist(
        [
            {"fingerprint": fingerprint, "difficulty": protocol and protocol.difficulty_of(score.prompt),
             **without_nan(asdict(score)), **asdict(under)}
            for score in scores
        ],
        SCORES,
    )  # fmt: skip


def scores_of(table: pa.Table) -> list[Score]:
    """The inverse of `score_rows`."""
    names = [each.name for each in fields(Score)]
    rows = table.select(names).to_pylist()
    return [Score(**{**with_nan(row), "metric_version": row["metric_version"]}) for row in rows]


def made_under(scores: pa.Table, under: ScoredUnder) -> pa.Table:
    """The rows of SCORES that were made under these conditions."""
    for name, value in asdict(under).items():
        scores = scores.filter(pc.equal(scores[name], value))
    return scores


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in row.items()}


def picture_rows(
    concept: Concept, fingerprint: str, encoded: Encoded, under: ScoredUnder, texts: ClipScorer | None
) -> pa.Table:
    """PICTURE_FEATURES of one word. texts: reads the prompts; None has no rows for them."""
    rows: list[dict[str, Any]] = [
        {"kind": each.kind, "prompt": each.prompt, "index": each.index, "seed": each.seed, "feature": feature}
        for each, feature in zip(encoded.samples, encoded.features, strict=True)
    ]
    stated = [("text", prompt, text) for prompt, text in encoded.edits.items()]
    if concept.noun:
        plain = encoded.plain_prompt
        stated.append(("class", plain, in_its_place(plain, concept.placeholder, concept.noun)))
    if texts is not None and stated:
        features = texts.encode_texts([text for _, _, text in stated])
        rows += [
            {"kind": kind, "prompt": prompt, "text": text, "feature": feature}
            for (kind, prompt, text), feature in zip(stated, features, strict=True)
        ]
    of = {"concept": concept.name, "fingerprint": fingerprint, "protocol": under.protocol, "clip": under.clip,
          "clip_digest": under.clip_digest}  # fmt: skip
    return pa.Table.from_pylist([{**of, **row} for row in rows], PICTURE_FEATURES)
