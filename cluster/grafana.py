"""Checks a Grafana dashboard and Prometheus' alerting rules: queries that are not PromQL, panels that show nothing or overlap."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import promql_parser

Dashboard = dict[str, Any]
COLUMNS = 24  # of Grafana's grid


def problems(dashboard: Dashboard) -> list[str]:
    """A sentence for each problem."""
    return [*_whole(dashboard), *(problem for panel in dashboard["panels"] for problem in _panel(panel))]


def alert_problems(rules: dict[str, Any]) -> list[str]:
    """A sentence for each problem of a file of alerting rules."""
    return [problem for group in rules["groups"] for rule in group["rules"] for problem in _rule(rule)]


def metrics(dashboard: Dashboard) -> set[str]:
    """The names of the metrics that the panels query."""
    return metrics_of(queries(dashboard))


def metrics_of(queries: Iterable[str]) -> set[str]:
    return {name for query in queries for name in _names(promql_parser.parse(query))}


def queries(dashboard: Dashboard) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def _whole(dashboard: Dashboard) -> Iterator[str]:
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        yield "$.panels: two have the same id"
    for one, other in itertools.combinations(panels, 2):
        if _overlap(one["gridPos"], other["gridPos"]):
            yield f"$.panels: {one['title']!r} and {other['title']!r} lie upon one another"


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def _panel(panel: Dashboard) -> Iterator[str]:
    title = panel["title"]
    if panel["gridPos"]["x"] + panel["gridPos"]["w"] > COLUMNS:
        yield f"{title}: wider than the page"
    if not panel.get("targets"):
        yield f"{title}: asks for nothing"
    for target in panel.get("targets", []):
        if target["datasource"]["uid"] != "${datasource}":
            yield f"{title}: bound to one installation's data source"
        try:
            promql_parser.parse(target["expr"])
        except ValueError as error:
            yield f"{title}: {target['expr']!r} is no PromQL: {error}"


def _rule(rule: dict[str, Any]) -> Iterator[str]:
    name = rule.get("alert", "a rule without a name")
    if missing := {"alert", "expr", "labels", "annotations"} - rule.keys():
        yield f"{name}: lacks {', '.join(sorted(missing))}"
    if unknown := rule.keys() - {"alert", "expr", "for", "labels", "annotations"}:
        yield f"{name}: Prometheus knows no {', '.join(sorted(unknown))}"
    try:
        promql_parser.parse(rule.get("expr", ""))
    except ValueError as error:
        yield f"{name}: {rule.get('expr')!r} is no PromQL: {error}"


def _names(expression: Any) -> Iterator[str]:
    """The metrics that an expression selects, from any node of its syntax tree."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield str(expression.name)
        return
    for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (inner := getattr(expression, part, None)) is not None:
            yield from _names(inner)
    for argument in getattr(expression, "args", None) or []:
        yield from _names(argument)
