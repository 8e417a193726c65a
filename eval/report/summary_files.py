"""A summary as files of report/: summary.json, and concepts.parquet with one row a concept.

A value that could not be computed is nan in a record, and null in tables and JSON.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from eval.judges.outside_metric import MetricError, OutsideMetric
from eval.scores.metric_table import COLUMNS, METRICS
from eval.scores.score_tables import ScoredUnder, without_nan
from eval.scores.summary import ConceptSummary, Estimate, Summary
from pipeline.store.run_tables import KEY

CONCEPTS = pa.schema([
    *KEY, ("placeholder", pa.string()), ("class", pa.string()), ("kind", pa.string()),
    *((column.name, pa.float64()) for column in COLUMNS),
    ("nearest_own", pa.float64()), ("verdict", pa.string()), ("no_effect", pa.bool_()), ("steps", pa.int64()),
    ("seconds", pa.float64()),
    ("stopped_by", pa.string()), ("carried", pa.map_(pa.string(), pa.string())),
    ("stated", pa.map_(pa.string(), pa.string())),
])  # fmt: skip


def refuse_taken(outside: Sequence[OutsideMetric]) -> None:
    """Raises MetricError for a metric from outside that is called like one of ours, or like a column of the report."""
    for metric in outside:
        if {metric.name, f"{metric.name}_floor"} & {*(each.name for each in METRICS), *CONCEPTS.names}:
            raise MetricError(
                f"--metric {metric.spelled}: there is a metric or a column {metric.name!r} already; give it another `name`"
            )


def concept_rows(summary: Summary) -> pa.Table:
    """`report/concepts.parquet` without the manifest's plain columns: one row a concept, as CONCEPTS, then metrics from outside."""
    outside = [pa.field(each.name, pa.float64()) for each in summary.columns if each.name not in CONCEPTS.names]
    return pa.Table.from_pylist([
        {**without_nan({each.name: getattr(concept, each.name) for each in fields(concept)}), **without_nan(concept.more),
         "class": concept.noun, "verdict": concept.verdict, "no_effect": concept.no_effect,
         "carried": list(concept.carried.items()), "stated": list(concept.stated.items())}
        for concept in summary.concepts
    ], pa.schema([*CONCEPTS, *outside]))  # fmt: skip


def repeat_rows(summary: Summary) -> pa.Table | None:
    """`report/repeats.parquet`: one row a concept, with the mean of each figure over its repeats and its standard deviation.

    None without repeats.
    """
    if not summary.repeats:
        return None
    words: dict[str, list[ConceptSummary]] = {}
    for word in summary.concepts:
        words.setdefault(word.repeat_of, []).append(word)
    rows = []
    for name, some in words.items():
        row: dict[str, Any] = {"concept": name, "repeats": len(some)}
        for column in summary.columns:
            values = np.array([value for word in some if not math.isnan(value := word.figure(column.name))])
            row[column.name] = float(values.mean()) if len(values) else None
            row[f"{column.name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
        rows.append(row)
    names = [f"{column.name}{ending}" for column in summary.columns for ending in ("", "_sd")]
    schema = [("concept", pa.string()), ("repeats", pa.int64()), *((name, pa.float64()) for name in names)]
    return pa.Table.from_pylist(rows, pa.schema(schema))


def summary_json(summary: Summary) -> dict[str, Any]:
    """`report/summary.json`: the headline, without the concepts; holds no nan."""
    figures = {
        each.name: getattr(summary, each.name)
        for each in fields(summary)
        if each.name not in ("concepts", "more", "metrics")
    }
    figures |= summary.more
    written = {
        name: without_nan(asdict(value)) if isinstance(value, Estimate | ScoredUnder) else value
        for name, value in figures.items()
    }
    written["repeats"] = {name: without_nan(asdict(value)) for name, value in summary.repeats.items()}
    written["no_effect"] = sum(concept.no_effect for concept in summary.concepts)
    written["difficulties"] = {name: without_nan(asdict(value)) for name, value in summary.difficulties.items()}
    written["cmmd"] = asdict(summary.cmmd) if summary.cmmd else None
    if summary.confusion:
        confusion = asdict(summary.confusion)
        written["confusion"] = {name: confusion[name] for name in confusion if name != "by_concept"}
    return without_nan(written)
