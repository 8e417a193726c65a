"""Schemas of the run folder's tables, and conversion between records and rows. pandas, duckdb and datasets can read them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from pipeline.records import Concept, Failure, ImageSet, Sample, Word
from pipeline.store.locations import all_without_credentials

# Hugging Face's `Image` feature is this struct; the schema's metadata tells `datasets` so.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

# Every file of the concept with its version: a file with the same identity need not be read again for its digest.
SOURCE = pa.struct([("url", pa.string()), ("identity", pa.string()), ("digest", pa.string())])

KEY = [("concept", pa.string()), ("fingerprint", pa.string())]

EMBEDDINGS = pa.schema([
    *KEY, ("text_encoder", pa.string()), ("placeholder", pa.string()), ("vectors", pa.list_(pa.list_(pa.float32()))),
    ("initializer", pa.string()), ("class", pa.string()), ("kind", pa.string()), ("steps", pa.int64()),
    ("stopped_by", pa.string()), ("learning_rate", pa.float64()), ("loss", pa.float64()), ("norms", pa.list_(pa.float32())),
    ("initial_norms", pa.list_(pa.float32())), ("seconds", pa.float64()), ("images", pa.list_(pa.string())),
    ("image_digests", pa.list_(pa.string())), ("rejected_images", pa.list_(pa.string())), ("sources", pa.list_(SOURCE)),
    ("carried", pa.map_(pa.string(), pa.string())), ("resolution", pa.int64()),
    ("learned", pa.string()), ("stated", pa.map_(pa.string(), pa.string())),
])  # fmt: skip

SAMPLES = pa.schema(
    [
        *KEY, ("kind", pa.string()), ("prompt", pa.string()), ("stated", pa.string()), ("index", pa.int64()),
        ("seed", pa.int64()), ("image", IMAGE),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": {
        **{name: {"dtype": "string", "_type": "Value"} for name in ("concept", "fingerprint", "kind", "prompt", "stated")},
        **{name: {"dtype": "int64", "_type": "Value"} for name in ("index", "seed")},
        "image": {"_type": "Image"},
    }}})},
)  # fmt: skip

FAILURES = pa.schema([*KEY, ("stage", pa.string()), ("reason", pa.string()), ("attempts", pa.int64())])


def embedding_rows(
    concept: Concept, fingerprint: str, word: Word, images: ImageSet, learned: str | None = None
) -> pa.Table:
    """One row a text encoder. learned: the day, ISO 8601. No credentials of URLs are in them, such as a signature in a query."""
    plain = all_without_credentials
    return pa.Table.from_pylist([
        {
            "concept": concept.name, "fingerprint": fingerprint, "text_encoder": encoder, "placeholder": word.placeholder,
            "vectors": vectors.tolist(), "initializer": word.initializer, "class": concept.noun, "kind": concept.kind,
            "steps": word.steps, "stopped_by": word.stopped_by, "learning_rate": word.learning_rate, "loss": word.loss,
            "norms": np.linalg.norm(vectors, axis=1).tolist(),
            "initial_norms": np.linalg.norm(word.initial[encoder], axis=1).tolist(), "seconds": word.seconds,
            "images": plain(images.urls), "image_digests": list(images.digests),
            "rejected_images": [plain(f"{rejected.url}: {rejected.reason}") for rejected in images.rejected],
            "sources": [plain(asdict(source)) for source in images.sources],
            "carried": _carried(concept),
            "resolution": images.pixels.shape[1],
            "learned": learned,
            "stated": list(word.stated.items()),
        }
        for encoder, vectors in word.vectors.items()
    ], EMBEDDINGS)  # fmt: skip


def with_columns_of(concepts: Mapping[str, Concept], table: pa.Table) -> pa.Table:
    """EMBEDDINGS with the class and the carried columns that these rows of the manifest have now; the same table where they
    are what it says already.
    """
    names = table["concept"].to_pylist()
    before = {column: table[column].to_pylist() for column in ("class", "carried")}
    now = {column: list(values) for column, values in before.items()}
    for position, name in enumerate(names):
        if name in concepts:
            now["class"][position] = concepts[name].noun
            now["carried"][position] = _carried(concepts[name])
    if now == before:
        return table
    for column, values in now.items():
        field = EMBEDDINGS.field(column)
        table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    return table


def _carried(concept: Concept) -> list[tuple[str, str]]:
    return [(name, all_without_credentials(value)) for name, value in concept.carried.items()]


def sample_rows(fingerprint: str, samples: Sequence[Sample]) -> pa.Table:
    return pa.Table.from_pylist([
        {
            "concept": sample.concept, "fingerprint": fingerprint, "kind": sample.kind, "prompt": sample.prompt,
            "stated": sample.stated, "index": sample.index, "seed": sample.seed,
            "image": {"bytes": sample.png, "path": f"{sample.concept}-{sample.kind}-{position:03d}.png"},
        }
        for position, sample in enumerate(samples)
    ], SAMPLES)  # fmt: skip


def samples_of(table: pa.Table) -> list[Sample]:
    """The inverse of `sample_rows`."""
    return [
        Sample(
            row["concept"], row["kind"], row["prompt"], row["stated"], row["index"], row["seed"], row["image"]["bytes"]
        )
        for row in table.to_pylist()
    ]


def failure_rows(failures: Iterable[Failure]) -> pa.Table:
    return pa.Table.from_pylist([all_without_credentials(asdict(failure)) for failure in failures], FAILURES)
