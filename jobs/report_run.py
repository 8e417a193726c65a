"""Puts a run's tables and grids together into report/: the page, the headline figures and one row a concept."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.report import render_report
from eval.tables import SCORES, ScoredUnder, Summary, concept_rows, summarise, summary_json
from pipeline.publish import part_path, plan_parts, read_table
from pipeline.records import Failure
from pipeline.run_folder import RunFolder
from pipeline.storage import StorageNotFoundError
from pipeline.tables import EMBEDDINGS, FAILURES


def write_report(run: RunFolder, under: ScoredUnder, configuration: Mapping[str, Any]) -> Summary:
    """Of the scores, those made `under` these conditions are reported."""
    parts = plan_parts(run, 0)
    embeddings = read_parts(run, "embeddings", parts["embeddings"], EMBEDDINGS)
    scores = read_parts(run, "scores", parts["scores"], SCORES)
    failures = [
        Failure(row["concept"], row["stage"], row["reason"], row["attempts"])
        for row in read_parts(run, "failures", 1, FAILURES).to_pylist()
    ]
    summary = summarise(scores, embeddings, failures, np.random.default_rng(0), under)
    grids = {}
    for concept in summary.concepts:
        try:
            grids[concept.concept] = run.storage.read_bytes(run.grid_path(concept.concept))
        except StorageNotFoundError:
            continue
    title = "wordmint: " + run.storage.url.rstrip("/").rsplit("/", 1)[-1]
    page = render_report(summary, grids, failures, configuration, title)
    run.storage.write_bytes("report/index.html", page.encode())
    run.write_json("report/summary.json", summary_json(summary))
    sink = io.BytesIO()
    pq.write_table(concept_rows(summary), sink)
    run.storage.write_bytes("report/concepts.parquet", sink.getvalue())
    return summary


def headline(summary: Summary) -> str:
    """The two figures a person wants first, each beside what it has to be read against."""
    return (
        f"reconstruction {summary.reconstruction.value:.3f}, untrained words {summary.reconstruction_floor:.3f}, "
        f"real pictures {summary.reconstruction_ceiling:.3f}: a median of {summary.covered.value:.0%} of the way\n"
        f"editability    {summary.editability.value:.3f}, pictures without the edit {summary.editability_floor:.3f}, "
        f"the edit without a learned word {summary.editability_ceiling:.3f}"
    )


def read_parts(run: RunFolder, table: str, parts: int, schema: pa.Schema) -> pa.Table:
    """All parts of a table that have been written, as one."""
    read = (read_table(run, part_path(table, number, parts)) for number in range(parts))
    return pa.concat_tables([schema.empty_table(), *(some.cast(schema) for some in read if some is not None)])
