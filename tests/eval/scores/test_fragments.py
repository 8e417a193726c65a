"""Evaluations that bring their scores into the tables at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import eval.scores.fragments
from eval.scores.confusion import FEATURES
from eval.scores.fragments import fragments, leave_fragment
from eval.scores.score_run import take_in_fragments
from eval.scores.score_tables import SCORES
from pipeline.store.parts import part_path, read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage


def row(schema: pa.Schema, concept: str) -> pa.Table:
    columns = [
        pa.array([concept], field.type) if field.name == "concept" else pa.nulls(1, field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def test_scores_of_evaluations_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a part read by both, and written last by the one that had not seen the other's scores."""
    run = RunFolder(Storage(str(tmp_path)))

    def slowly(run: RunFolder, path: str, table: pa.Table) -> None:
        if path.startswith(("scores/", "features/")):
            time.sleep(0.5)
        write_table(run, path, table)

    monkeypatch.setattr(eval.scores.fragments, "write_table", slowly)
    parts = {"embeddings": 1, "scores": 1, "samples": 1}

    def evaluate(number: int) -> None:
        time.sleep(0.2 * number)
        names = [f"concept-{number}-{each}" for each in range(3)]
        tables: list[Any] = [pa.concat_tables([row(schema, name) for name in names]) for schema in (SCORES, FEATURES)]
        leave_fragment(run, 0, f"00000@{number}", *tables)
        take_in_fragments(run, parts)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(evaluate, range(4)))
    scores = read_table(run, part_path("scores", 0, 1))
    assert scores is not None
    assert len(set(scores["concept"].to_pylist())) == 12
    assert fragments(run) == {}
