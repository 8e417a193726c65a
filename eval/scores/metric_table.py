"""The table of all metrics in eval/scores/measured/, from which scores, summaries, report and documents are derived."""

import pkgutil
from importlib import import_module

from eval.scores import measured
from eval.scores.metric import Column, Metric
from pipeline.protocols import Protocol

METRICS: tuple[Metric, ...] = tuple(
    sorted(
        (import_module(f"{measured.__name__}.{each.name}").METRIC for each in pkgutil.iter_modules(measured.__path__)),
        key=lambda metric: (metric.order, metric.name),
    )
)
COLUMNS: tuple[Column, ...] = tuple(column for metric in METRICS for column in metric.columns)


def expected_metrics(protocol: Protocol, reads_texts: bool, answers: bool = False) -> frozenset[str]:
    """Names of the metrics that every concept must have under this protocol and kind of judge.

    answers: it is a vision-language model.
    """
    mine = (metric for metric in METRICS if metric.answered == answers)
    return frozenset(metric.name for metric in mine if metric.expected(protocol, reads_texts))


def metrics_table() -> str:
    """The metrics as a Markdown table; docs/reference.md has it."""
    head = ["| in the report | in `scores/` | what it is | floor | ceiling | unit |", "|---|---|---|---|---|---|"]
    rows = [
        f"| {each.figure.replace('_', ' ')} | `{each.name}` | {each.meaning} | {each.floor} | {each.ceiling} | {each.unit} |"
        for each in METRICS
    ]
    return "\n".join([*head, *rows]) + "\n"
