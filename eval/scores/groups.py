"""Scores by groups of concepts: for which kinds of concepts the words are good."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.scores.summary import ConceptSummary, Estimate, mean_of

# A column with a single value, or with a different value for each concept, is not chosen by default.
FEWEST, MOST = 2, 30
OWN = ("class", "kind")


@dataclass(frozen=True, slots=True)
class Group:
    """name: the column's value. concepts: how many. covered: the median; all other figures are means over concepts."""

    name: str
    concepts: int
    covered: float
    reconstruction: Estimate
    editability: Estimate
    diversity: Estimate


def groups_by(concepts: Sequence[ConceptSummary], column: str) -> dict[str, str]:
    """Concept -> the column's value, "" if it is empty. Raises ValueError if there is no such column."""
    refuse_unknown_column(column, {name for concept in concepts for name in concept.carried})
    return {concept.concept: _said(concept, column) for concept in concepts}


def refuse_unknown_column(column: str, carried: Collection[str]) -> None:
    """Raises ValueError if concepts cannot be grouped by the column. carried: the manifest's own columns."""
    known = sorted({*OWN, *carried})
    if column not in known:
        raise ValueError(f"there is no column {column!r} to group by; there are {', '.join(known)}")


def telling_column(concepts: Sequence[ConceptSummary]) -> str | None:
    """The default column to group by: the manifest's first carried column with a few different values."""
    for column in (*sorted({name for concept in concepts for name in concept.carried}), *OWN):
        values = {_said(concept, column) for concept in concepts}
        if FEWEST <= len(values) <= min(MOST, len(concepts) // 2):
            return column
    return None


def summarise_groups(
    concepts: Sequence[ConceptSummary], groups: Mapping[str, str], rng: np.random.Generator
) -> tuple[Group, ...]:
    """By name."""
    members: dict[str, list[ConceptSummary]] = {}
    for concept in concepts:
        members.setdefault(groups[concept.concept], []).append(concept)
    return tuple(_group(name, members[name], rng) for name in sorted(members))


def _said(concept: ConceptSummary, column: str) -> str:
    own = {"class": concept.noun or "", "kind": concept.kind}
    return concept.carried.get(column, own.get(column, ""))


def _group(name: str, members: Sequence[ConceptSummary], rng: np.random.Generator) -> Group:
    covered = [each.covered for each in members if not math.isnan(each.covered)]
    return Group(
        name, len(members), float(np.median(covered)) if covered else math.nan,
        *(mean_of(members, figure, rng) for figure in ("reconstruction", "editability", "diversity")),
    )  # fmt: skip
