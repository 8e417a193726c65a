"""A summary as files of report/: summary.json, and concepts.parquet with one row a concept.

A value that could not be computed is nan in a record, and null in tables and JSON.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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


def concept_rows(summary: Summary, types: Mapping[str, str] | None = None) -> pa.Table:
    """`report/concepts.parquet`: one row per concept, as CONCEPTS, then metrics from outside and the manifest's carried columns.

    types: carried column -> "integer", "number", "boolean"; others are text. A column that is called like one of CONCEPTS is
    here `manifest_<name>`.
    """
    outside = [pa.field(each.name, pa.float64()) for each in summary.columns if each.name not in CONCEPTS.names]
    table = pa.Table.from_pylist([
        {**without_nan({each.name: getattr(concept, each.name) for each in fields(concept)}), **without_nan(concept.more),
         "class": concept.noun, "verdict": concept.verdict, "no_effect": concept.no_effect,
         "carried": list(concept.carried.items()), "stated": list(concept.stated.items())}
        for concept in summary.concepts
    ], pa.schema([*CONCEPTS, *outside]))  # fmt: skip
    for column in sorted({name for concept in summary.concepts for name in concept.carried}):
        values = [concept.carried.get(column) for concept in summary.concepts]
        name = column
        while name in table.column_names:
            name = f"manifest_{name}"
        table = table.append_column(name, _typed(values, (types or {}).get(column, "text")))
    return table


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


def _typed(values: Sequence[str | None], kind: str) -> pa.Array:
    """Text where a value does not fit the type any more, as in a row of another manifest."""
    if kind not in TYPES:
        return pa.array(values, pa.string())
    parse, type_ = TYPES[kind]
    try:
        return pa.array([parse(value) if value else None for value in values], type_)
    except (ValueError, OverflowError, pa.ArrowException):
        return pa.array(values, pa.string())


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


TYPES: dict[str, tuple[Callable[[str], Any], pa.DataType]] = {
    "integer": (int, pa.int64()), "number": (float, pa.float64()), "boolean": (_truth, pa.bool_()),
}  # fmt: skip


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
