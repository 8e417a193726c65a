"""The plane's marks and intervals, its page, and the cost of a recipe, against values worked out by hand."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from eval.comparison.axes import MARGIN, TICKS, WIDTH, labels, ticks
from eval.comparison.comparison_page import Table, page_of
from eval.comparison.curve import Course, Measured, costs_of, costs_table, courses_of, courses_svg, courses_table
from eval.comparison.plane import Point, marks_of, plane_svg, point_rows, points_of, table_of, tables_by_kind

RNG_SEED = 0


def points() -> list[Point]:
    base = [Point("base", name, value, 0.5, 800, 2.0) for name, value in (("a", 0.6), ("b", 0.7), ("c", 0.8))]
    better = [Point("better <b>", each.concept, each.reconstruction + 0.05, 0.4, 1600, 4.0) for each in base]
    return [*base, *better, Point("base", "unscored", math.nan, math.nan)]


def test_a_mark_is_the_mean_with_the_paired_difference_to_the_base() -> None:
    base, better = marks_of(points(), "base")
    assert (base.variant, base.concepts, base.seeds) == ("base", 3, 1)
    assert base.reconstruction.value == pytest.approx(0.7)
    assert base.reconstruction.low < 0.7 < base.reconstruction.high
    # Every concept gains the same: paired, that is known exactly, though the means' own intervals overlap.
    gain = better.reconstruction_against
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.05, 0.05, 0.05))
    assert better.editability_against.value == pytest.approx(-0.1)
    assert (better.evaluations, better.seconds) == (1600, 4)


def test_points_survive_the_way_to_a_table_and_back() -> None:
    found = points_of(point_rows(points()))
    assert found[:-1] == points()[:-1]
    assert math.isnan(found[-1].reconstruction)


def test_the_page_draws_every_mark_and_takes_names_for_text() -> None:
    marks = marks_of(points(), "base")
    drawing = plane_svg(marks, "base", 0.9)
    root = ET.fromstring(drawing)
    space = "{http://www.w3.org/2000/svg}"
    circles = {circle.findtext(f"{space}title"): circle for circle in root.iter(f"{space}circle")}
    assert set(circles) == {"base", "better <b>"}
    assert float(circles["better <b>"].get("cy", "nan")) < float(circles["base"].get("cy", "nan")), "up is closer"
    assert float(circles["better <b>"].get("cx", "nan")) < float(circles["base"].get("cx", "nan"))
    page = page_of("a <title>", [drawing], [table_of(marks, "base")])
    assert "<b>" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "| better <b> | 3 | 1 | 0.750 (" in table_of(marks, "base").markdown()


def test_each_kind_of_concepts_has_a_table_of_its_own() -> None:
    """Catches a mean over kinds under the name of one, and a kind that is compared with another's base."""
    first, second = tables_by_kind(points(), {"a": "thing", "b": "thing", "c": "style", "unscored": "style"}, "base")
    assert (first.head[0], second.head[0]) == ("thing", "style")
    assert [row[:4] for row in first.rows] == [
        ("base", "2", "1", "0.650 (0.015 to 1.285)"), ("better <b>", "2", "1", "0.700 (0.065 to 1.335)")
    ]  # fmt: skip
    assert [row[1] for row in second.rows] == ["1", "1"]
    assert tables_by_kind(points(), dict.fromkeys("abc", "thing"), "base") == []


def course(recipe: str, scale: float, last: float, begin: float = 0.0) -> Course:
    quality = np.array([[[begin, (begin + last) / 2, last]] * 2])
    return Course(recipe, np.array([0.0, 100, 200]) * scale, quality, 0.3 - 0.1 * quality)


def test_labels_of_marks_that_lie_together_do_not_lie_on_each_other() -> None:
    places = [(300.0 + step, 200.0 + step) for step in range(8)]
    texts = [ET.fromstring(f"<g>{each}</g>").find("text") for each in labels(places, ["1 vector"] * 8)]
    spots = [(float(text.get("x", "nan")), float(text.get("y", "nan"))) for text in texts if text is not None]
    assert len(spots) == 8
    for number, (x, y) in enumerate(spots):
        assert MARGIN <= x <= WIDTH
        assert all(abs(y - y_) >= 15 or abs(x - x_) >= 60 for x_, y_ in spots[:number]), "two labels share a place"


@pytest.mark.parametrize(
    ("low", "high"), [(0.662, 0.683), (0, 872), (0.63, 0.82), (-0.1, 0.1), (0.5, 0.50001), (0, 60000)]
)
def test_ticks_differ_and_lie_on_their_axis(low: float, high: float) -> None:
    said = ticks(low, high)
    assert 2 <= len(said) == len(set(said)) <= TICKS
    assert all(low - 1e-9 <= float(each) <= high + 1e-9 for each in said)
    assert float(said[1]) - float(said[0]) == pytest.approx(float(said[-1]) - float(said[-2]))


def test_the_page_shows_a_table_with_a_pipe_in_a_name_and_the_line_below_it() -> None:
    table = Table(("a", "b"), (("x | <i>y", "1"),))
    page = page_of("t", [], [table], "3 concepts")
    assert table.markdown() == "| a | b |\n| --- | --- |\n| x \\| <i>y | 1 |\n"
    assert "<tr><td>x | &lt;i&gt;y</td><td>1</td></tr>\n</table>" in page
    assert "<p>3 concepts</p>" in page


def test_a_reference_that_gains_nothing_is_told_and_makes_no_cost() -> None:
    """Catches 95 % of a raw similarity, most of which an untrained word has already."""
    flat = Course("flat", np.array([0.0, 100]), np.full((1, 2, 2), 0.8), np.full((1, 2, 2), 0.3))
    later = Course("later", np.array([0.0, 100]), np.array([[[0.1, 0.8]] * 2]), np.full((1, 2, 2), 0.3))
    cost = costs_of([flat, later], "flat", np.random.default_rng(RNG_SEED))[1]
    assert math.isnan(cost.reached)
    assert "| later | the reference gained nothing | – | – | – |" in costs_table([cost], "flat").markdown()


def test_the_goal_is_a_share_of_the_gain_and_not_of_the_similarity() -> None:
    (cost,) = costs_of([course("r", 1, 0.766, begin=0.697)], "r", np.random.default_rng(RNG_SEED))
    assert cost.evaluations == pytest.approx(190), "of the raw similarity it would be there at 90"


def test_a_goal_that_some_resamples_miss_has_no_upper_end_within_the_budget() -> None:
    """Catches an interval over those resamples alone that happened to get there."""
    base = course("base", 1, 0.8)
    uneven = Course("uneven", base.evaluations, np.array([[[0, 0.4, 0.9], [0, 0.4, 0.64]]]), base.editability)
    cost = costs_of([base, uneven], "base", np.random.default_rng(RNG_SEED))[1]
    assert cost.evaluations < 200
    assert cost.high == math.inf
    assert 0 < cost.reached < 1
    assert "to beyond its budget)" in costs_table([cost], "base").markdown()


def test_seeds_are_resampled_beside_concepts() -> None:
    """Catches an interval that three training seeds do not widen."""
    base = course("base", 1, 0.8)
    quality = np.stack([np.array([[0.0, at, 0.9]] * 2) for at in (0.2, 0.5, 0.8)])
    three = Course("three", base.evaluations, quality, np.full_like(quality, 0.3))
    reference = Course("base", base.evaluations, np.repeat(base.reconstruction, 3, axis=0), quality * 0)
    cost = costs_of([reference, three], "base", np.random.default_rng(RNG_SEED))[1]
    assert cost.high - cost.low > 20


def test_the_cost_is_read_off_between_the_checkpoints_and_held_against_the_references_end() -> None:
    costs = costs_of([course("slow", 4, 0.8), course("fast", 1, 0.8), course("weak", 1, 0.5)], "slow",
                     np.random.default_rng(RNG_SEED))  # fmt: skip
    slow, fast, weak = costs
    assert slow.evaluations == pytest.approx(800 * 0.95)
    assert (fast.evaluations, fast.low, fast.high) == pytest.approx((190, 190, 190))
    assert (fast.ratio, fast.ratio_low, fast.ratio_high, fast.reached) == pytest.approx((0.25, 0.25, 0.25, 1))
    assert fast.text == pytest.approx(0.3 - 0.076 - (0.3 - 0.08))
    assert math.isnan(weak.evaluations)
    assert weak.reached == 0
    assert "| weak | not within its budget | – | 0% | – |" in costs_table(costs, "slow").markdown()


def test_concepts_that_diverged_under_one_recipe_are_left_out_of_all() -> None:
    rows = [
        Measured(recipe, name, step, 4 * step, math.nan if (recipe, name, step) == ("hot", "b", 9) else 0.5, 0.3)
        for recipe in ("hot", "mild")
        for name in ("a", "b", "c")
        for step in (0, 9)
    ]
    hot, mild = courses_of(rows)
    assert hot.reconstruction.shape == mild.reconstruction.shape == (1, 2, 2)
    assert hot.evaluations.tolist() == [0, 36]
    assert len(courses_table([hot, mild]).rows) == 4
    ET.fromstring(courses_svg([hot, mild]))


def test_training_seeds_are_a_mean_and_what_was_not_trained_is_held_against_each_of_them() -> None:
    """Catches a caption that is left out of the comparison because it was drawn once, and seeds counted as concepts."""
    trained = [
        Point("base", name, value + shift, 0.5, 800, 2.0, seed)
        for seed, shift in enumerate((0.0, 0.1, 0.2))
        for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.7))
    ]
    said = [Point("caption", name, 0.8, 0.5) for name in ("a", "b", "c")]
    base, caption = marks_of([*trained, *said, Point("base", "d", 0.9, 0.5)], "base")
    assert base.concepts == caption.concepts == 3, "a concept without all its seeds is left out"
    assert base.reconstruction.value == pytest.approx(0.7)
    assert caption.reconstruction_against.value == pytest.approx(0.1)
    (alone,) = marks_of([point for point in trained if point.seed == 1], "base")
    assert base.reconstruction.high - base.reconstruction.low > 0
    assert alone.concepts == 3
