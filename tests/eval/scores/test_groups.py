"""Concepts by a column of their manifest."""

import math
from dataclasses import replace

import numpy as np
import pytest

from eval.scores.groups import groups_by, summarise_groups, telling_column
from eval.scores.summary import ConceptSummary

ONE = ConceptSummary(
    "a",
    "f",
    "<a>",
    "cat",
    "object",
    0.5,
    0.4,
    0.6,
    0.2,
    0.8,
    0.5,
    0.3,
    0.1,
    0.4,
    0.6,
    9,
    1.0,
    "steps",
    {"shop": "north"},
)
CONCEPTS = [
    ONE,
    replace(ONE, concept="b", reconstruction=0.7, covered=0.9),
    replace(ONE, concept="c", carried={"shop": "south"}, reconstruction=math.nan, covered=math.nan),
    replace(ONE, concept="d", carried={}, noun=None),
]


def test_groups_are_what_the_column_says_and_concepts_without_it_are_a_group_too() -> None:
    groups = groups_by(CONCEPTS, "shop")
    assert groups == {"a": "north", "b": "north", "c": "south", "d": ""}
    found = {group.name: group for group in summarise_groups(CONCEPTS, groups, np.random.default_rng(0))}
    assert sorted(found) == ["", "north", "south"]
    assert found["north"].concepts == 2
    assert found["north"].reconstruction.value == pytest.approx(0.6)
    assert found["north"].covered == pytest.approx(0.7)
    assert math.isnan(found["south"].covered)
    assert found["south"].reconstruction.n == 0


def test_class_and_kind_are_columns_as_well_unless_the_manifest_has_its_own() -> None:
    assert groups_by(CONCEPTS, "class") == {"a": "cat", "b": "cat", "c": "cat", "d": ""}
    assert groups_by([replace(ONE, carried={"kind": "mine"})], "kind") == {"a": "mine"}


def test_a_column_that_nobody_has_is_refused_with_the_choice() -> None:
    with pytest.raises(ValueError, match="no column 'shp' to group by; there are class, kind, shop"):
        groups_by(CONCEPTS, "shp")


def test_when_nobody_names_a_column_one_is_taken_that_tells_a_few_groups_apart() -> None:
    shops = [replace(ONE, concept=str(n), carried={"id": str(n), "shop": "ns"[n % 2]}) for n in range(8)]
    assert telling_column(shops) == "shop"
    assert telling_column([replace(ONE, concept=str(n)) for n in range(8)]) is None
    assert telling_column([]) is None
