"""Concepts by a column of their manifest: which kind of thing the words are good at, and which not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.scores.summary import ConceptSummary, Estimate, mean_of

# A column that says the same of all concepts, or something else of each, tells nothing when nobody asked for it.
FEWEST, MOST = 2, 30
OWN = ("class", "kind")


@dataclass(frozen=True, slots=True)
class Group:
    """name: what the column says. concepts: how many. covered: the median; the others are means over concepts."""

    name: str
    concepts: int
    covered: float
    reconstruction: Estimate
    editability: Estimate
    diversity: Estimate


def groups_by(concepts: Sequence[ConceptSummary], column: str) -> dict[str, str]:
    """Concept -> what the column says of it, "" where it says nothing. Raises ValueError for a column that is not there."""
    known = sorted({*OWN, *(name for concept in concepts for name in concept.carried)})
    if column not in known:
        raise ValueError(f"there is no column {column!r} to group by; there are {', '.join(known)}")
    return {concept.concept: _said(concept, column) for concept in concepts}


def telling_column(concepts: Sequence[ConceptSummary]) -> str | None:
    """The column to group by when nobody named one: the first of the manifest's own that tells a few groups apart."""
    for column in (*sorted({name for concept in concepts for name in concept.carried}), *OWN):
        found = {_said(concept, column) for concept in concepts}
        if FEWEST <= len(found) <= min(MOST, len(concepts) // 2):
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
