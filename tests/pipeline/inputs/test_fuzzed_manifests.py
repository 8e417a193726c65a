"""Half a minute of broken manifests of each kind: each is read or refused with our own error."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.inputs.manifest import ManifestError, read_manifest
from tests.fuzzing import fuzz

ROWS: list[dict[str, Any]] = [
    {
        "concept": "owl",
        "images": ["owl/*.png", "more/1.jpg"],
        "class": "bird",
        "vectors": 2,
        "captions": {"1.jpg": "my {}"},
    },
    {
        "concept": "taxi",
        "images": "taxi/",
        "kind": "style",
        "placeholder": "<cab>",
        "initializer": "yellow car",
        "shop": "n",
    },
]
MEGABYTES = 500
SUFFIXES = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet"}
FEWEST = {"csv": 500, "jsonl": 500, "parquet": 20}  # Parquet is tried in a process of its own, each time


def whole() -> dict[str, list[bytes]]:
    """Small manifests of each kind, as people save them."""
    frame = pd.DataFrame([{name: json.dumps(cell) if isinstance(cell, list | dict) else cell for name, cell in row.items()}
                          for row in ROWS])  # fmt: skip
    text = frame.to_csv(index=False)
    lines = "\n".join(map(json.dumps, ROWS))
    return {
        "csv": [
            text.encode(),
            frame.to_csv(index=False, sep=";").encode("utf-8-sig"),
            f"sep=,\n{text}".encode("utf-16"),
        ],
        "jsonl": [lines.encode(), lines.encode("utf-8-sig"), lines.encode("utf-16")],
        "parquet": [frame.to_parquet(), pd.DataFrame(ROWS[:1]).to_parquet(), frame.to_parquet(compression=None)],
    }


def read_csv(data: bytes) -> None:
    _read(data, "csv")


def read_jsonl(data: bytes) -> None:
    _read(data, "jsonl")


def read_parquet(data: bytes) -> None:
    _read(data, "parquet")


def _read(data: bytes, kind: str) -> None:
    path = Path(tempfile.gettempdir()) / f"fuzzed-{os.getpid()}{SUFFIXES[kind]}"
    path.write_bytes(data)
    try:
        read_manifest(str(path), skip_invalid=len(data) % 2 == 0)
    finally:
        path.unlink()


@pytest.mark.long
@pytest.mark.parametrize("kind", SUFFIXES)
def test_broken_manifests_are_manifests_or_errors_of_ours_within_the_stated_memory(kind: str) -> None:
    """Catches a traceback before the first concept, a file that the job hangs on, and one that says it is much larger."""
    read = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet}[kind]
    assert fuzz(read, (ManifestError,), whole()[kind], seconds=30, megabytes=MEGABYTES) >= FEWEST[kind]
