"""troubles.py: a run that ended well but lost workers says so on its page, with causes and what was done."""

from dataclasses import replace

from eval.report.report_page import Background, render_report
from eval.report.troubles import troubles_of
from pipeline.records import Event
from tests.eval.report.test_report_page import concept, summary_of

LOST = Event(
    "2026-01-01T10:00:00.000+00:00", "worker_lost", "SIGKILL <b>", "its 2 concepts are tried again", "a1b2", "n0de",
    output="CUDA error: <script>alert(1)</script>",
)  # fmt: skip
BROKEN = replace(LOST, kind="call_broken_off", action="it is tried again alone", concept="owl", output="")


def test_events_are_counted_by_kind_and_the_latest_are_shown() -> None:
    events = [LOST, *(replace(BROKEN, concept=f"c{n}", time=f"2026-01-01T10:00:{n:02d}") for n in range(8)),
              Event("2026-01-01T09:00:00", "phase", "the model was loaded", seconds=3.0)]  # fmt: skip
    first, second = troubles_of(events)
    assert (first.title, first.count, first.concepts, first.more) == ("Concepts interrupted", 8, 8, 3)
    assert [event.concept for event in first.examples] == [f"c{n}" for n in range(3, 8)]
    assert first.actions == (("it is tried again alone", 8),)
    assert (second.title, second.count, second.concepts) == ("Workers lost", 1, 0)


def test_a_page_says_what_went_wrong_and_runs_nothing_of_it() -> None:
    """Catches a lost worker that nobody hears of, and a log line that becomes a script."""
    page = render_report(summary_of(concept(0, "owl")), {}, (), {}, background=Background(events=[LOST, BROKEN]))
    assert "What went wrong, and what it cost" in page
    assert "its 2 concepts are tried again" in page
    assert "on node n0de" in page
    assert "<script>alert(1)" not in page
    assert "SIGKILL &lt;b&gt;" in page


def test_a_run_in_which_nothing_went_wrong_has_no_such_section() -> None:
    started = Event("2026-01-01T09:00:00", "phase", "the model was loaded", seconds=3.0)
    page = render_report(summary_of(concept(0, "owl")), {}, (), {}, background=Background(events=[started]))
    assert "What went wrong" not in page
