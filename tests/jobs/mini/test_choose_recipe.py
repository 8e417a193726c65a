"""Recipes for the shipped model's words are compared on concepts that no report uses, over seeds."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.mini import choose_recipe
from jobs.mini.choose_recipe import RECIPES, REPORTED, Recipe, table_of
from jobs.mini.recipe.individuals import DEMO, KEPT_BACK, kinds_by_digest
from jobs.mini.report_by_kind import Figure
from jobs.mini.three_kinds import STYLES, write_three_kinds
from pipeline.models.find import MINI
from pipeline.training.recipes import recipe_of, vectors_of
from tests.random_drawings import random_drawings


def test_the_table_gives_each_figure_of_each_recipe_over_the_seeds() -> None:
    """Catches a figure in another recipe's column, and one seed told for all."""

    def of(*values: float) -> list[list[Figure]]:
        return [[Figure("named", value, 0.6, ""), Figure("nearest", 1 - value, 0.85, "")] for value in values]

    assert table_of({"shipped": of(0.5, 0.75), "other": of(0.25, 0.25)}).splitlines() == [
        "| measured | shipped | other |",
        "|---|---|---|",
        "| named | 0.625 (0.500 to 0.750) | 0.250 (0.250 to 0.250) |",
        "| nearest | 0.375 (0.250 to 0.500) | 0.750 (0.750 to 0.750) |",
    ]


def test_a_recipe_is_chosen_on_concepts_that_no_report_uses(tmp_path: Path) -> None:
    """Catches figures that the choice was made by, reported as if they had been found afterwards."""
    reported, mine = (
        write_three_kinds(random_drawings(), tmp_path / str(first), count, first=first).read_text(encoding="utf-8")
        for count, first in ((REPORTED, 0), (KEPT_BACK - REPORTED - 16, REPORTED))
    )
    ours, theirs = ({line.split(",")[0] for line in said.splitlines()[1:]} - set(STYLES) for said in (mine, reported))
    assert len(ours) == 32
    assert not ours & theirs
    kept_back = {*DEMO, *kinds_by_digest()[:KEPT_BACK]}
    assert {line.split(",")[2] for line in mine.splitlines() if line.startswith("my-")} <= kept_back


def test_every_recipe_is_one_that_the_settings_take_and_the_shipped_one_is_among_them() -> None:
    """Catches a name that an hour's comparison ends with, and a shipped recipe that was never compared."""
    tried = [(recipe.settings, recipe.vectors) for recipe in RECIPES.values()]
    assert (recipe_of(MINI), vectors_of(MINI)) in tried
    assert len({repr(each) for each in tried}) == len({recipe.folder for recipe in RECIPES.values()}) == len(tried)


@pytest.mark.long
def test_two_recipes_are_learned_and_a_second_call_learns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jobs.mini.choose_recipe.art.load_art", lambda _: random_drawings())
    few = (Recipe(1, 2), Recipe(2, 2))
    monkeypatch.setattr(choose_recipe, "RECIPES", {each.name: each for each in few})
    arguments = ["--output", str(tmp_path), "--concepts", "2", "--seeds", "1"]
    assert choose_recipe.main(arguments) == 0
    table = capsys.readouterr().out
    assert "| measured | vectors 1, steps 2 | vectors 2, steps 2 |" in table
    rows = pq.read_table(tmp_path / "vectors-2-steps-2-0" / "embeddings").to_pylist()
    assert len(rows) == 2 * 2 + len(STYLES)
    assert choose_recipe.main(arguments) == 0
    again = capsys.readouterr().out
    assert again.count("nothing to do") == 2
    assert again.endswith((tmp_path / "table.md").read_text(encoding="utf-8") + "\n")
