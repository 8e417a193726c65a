"""What the page says above everything else."""

from dataclasses import replace

from eval.report.report_page import render_report
from tests.eval.report.test_report_page import concept, summary_of


def test_words_that_changed_nothing_are_named() -> None:
    """Catches a run that draws its initializers and whose page looks like any other."""
    moved, idle = concept(0, "moved"), replace(concept(1, "idle"), effect=0.0001)
    page = " ".join(render_report(summary_of(moved, idle), {}, (), {}).split())
    assert '<b>1</b> draws what its initializer draws: <span dir="auto">idle</span> ·' in page
    many = [replace(idle, concept=f"<i>{number}") for number in range(12)]
    page = " ".join(render_report(summary_of(*many), {}, (), {}).split())
    assert "<b>12</b> draw what their initializers draw" in page
    assert page.count('<span dir="auto">&lt;i&gt;') == 10
    assert "initializer" not in render_report(summary_of(moved), {}, (), {}).split("</header>")[0]


def test_the_figures_of_no_word_at_all_stand_beside_the_floor_where_they_were_drawn() -> None:
    """Catches a word that is no better than its class, on a page that shows only how far it came."""
    summary = summary_of(concept(0, "owl"))
    assert "without the word" not in render_report(summary, {}, (), {})
    drawn = replace(
        summary, reconstruction_floor_noun=0.31, reconstruction_floor_wordless=0.12, editability_floor_noun=0.34
    )
    page = " ".join(render_report(drawn, {}, (), {}).split())
    assert (
        "Plain pictures without the word, the class in its place: <b>0.310</b>, nothing in its place: <b>0.120</b></p>"
        in page
    )
    assert "Plain pictures without the word, the class in its place: <b>0.340</b></p>" in page
