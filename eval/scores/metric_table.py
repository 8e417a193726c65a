"""The table of all metrics in eval/scores/measured/, from which scores, summaries, report and documents are derived."""

import math
import pkgutil
from collections.abc import Iterator, Sequence
from html import escape
from importlib import import_module

import numpy as np

from eval.judges.judge import ClipScorer
from eval.judges.outside_metric import OutsideMetric, value_of
from eval.scores import measured
from eval.scores.encoded import Encoded, word_pictures
from eval.scores.metric import Column, Measurement, Metric
from pipeline.protocols import Protocol

METRICS: tuple[Metric, ...] = tuple(
    sorted(
        (import_module(f"{measured.__name__}.{each.name}").METRIC for each in pkgutil.iter_modules(measured.__path__)),
        key=lambda metric: (metric.order, metric.name),
    )
)
COLUMNS: tuple[Column, ...] = tuple(column for metric in METRICS for column in metric.columns)


LAST = max(metric.order for metric in METRICS)


def expected_metrics(
    protocol: Protocol, reads_texts: bool, answers: bool = False, outside: Sequence[OutsideMetric] = ()
) -> frozenset[tuple[str, str | None]]:
    """(name, version) of the metrics that every concept must have under this protocol and kind of judge.

    answers: it is a vision-language model.
    """
    of_judge = (metric for metric in METRICS if metric.answered == answers)
    ours = {(metric.name, metric.version) for metric in of_judge if metric.expected(protocol, reads_texts)}
    return frozenset(ours | {(metric.name, metric.digest) for metric in outside})


def metric_of(outside: OutsideMetric) -> Metric:
    """A metric from outside as one of the table. It has one value a word, and no interval over its pictures."""

    def measure(encoded: Encoded, _: ClipScorer | None) -> Iterator[Measurement]:
        yield Measurement("", np.array([value_of(outside, word_pictures(encoded))]), outside.floor, math.nan)

    shown, bounded = outside.name.replace("_", " "), not math.isnan(outside.floor)
    worse, better = ("lowest", "highest") if outside.higher_is_better else ("highest", "lowest")
    up = 1 if outside.higher_is_better else -1
    return Metric(
        name=outside.name,
        figure=outside.name,
        order=LAST + 1,
        measure=measure,
        of_negative=True,
        columns=(
            Column(outside.name, "value", shown),
            *([Column(f"{outside.name}_floor", "floor")] if bounded else []),
        ),
        headline=(outside.name,),
        meaning=outside.meaning,
        floor=f"{outside.floor:g}" if bounded else "none",
        ceiling="none",
        unit="",
        title=shown,
        floor_value=outside.floor if bounded else None,
        about=f"{escape(outside.meaning)} A metric from outside, {escape(outside.spelled)}; {better} is best.",
        sorts=((outside.name, up, f"{worse} {shown}"), (outside.name, -up, f"{better} {shown}")),
        version=outside.digest,
    )


def metrics_table() -> str:
    """The metrics as a Markdown table; docs/reference.md has it."""
    head = ["| in the report | in `scores/` | what it is | floor | ceiling | unit |", "|---|---|---|---|---|---|"]
    rows = [
        f"| {each.figure.replace('_', ' ')} | `{each.name}` | {each.meaning} | {each.floor} | {each.ceiling} | {each.unit} |"
        for each in METRICS
    ]
    return "\n".join([*head, *rows]) + "\n"
