"""The report's page in a real browser: it works from a file, asks nothing of a network, and no name makes it act."""

import functools
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from eval.nightly.gate import Change, Comparison
from eval.nightly.history import CanaryReading, Verdict
from eval.report.report_page import Background, Judge, render_report
from eval.scores.confusion import Confusion, Mistaken
from eval.scores.score_tables import ScoredUnder
from eval.scores.summary import ConceptSummary, Estimate, Summary
from jobs.application.report_run import headline
from pipeline.records import Event, Failure

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
HOSTILE = (
    "</script><script>window.hit=1</script>", '"><img src=x onerror="window.hit=1">', "<!--<script>",
    "'\"`${window.hit=1}`&amp;&lt;", "{{ 7*7 }}{% raw %}", "\u202egnp.exe مرحبا", "👩‍🚀🐈‍⬛", "x" * 10_240, "a\u2028b\x00c",
    "lone \ud800 surrogate", "javascript:window.hit=1", "__proto__",
)  # fmt: skip


@functools.cache
def grid(seed: int) -> bytes:
    """Something like a grid: rows of tiles, smooth with some noise."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(tiles).resize((1078, 930), Image.Resampling.BICUBIC)
    noisy = np.asarray(picture).astype(np.int16) + rng.normal(0, 6, (930, 1078, 3)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def concept(position: int, name: str, text: str = "shelf 3", covered: float | None = None) -> ConceptSummary:
    share = 0.4 + 0.05 * position if covered is None else covered
    value = 0.2 + 0.4 * share
    return ConceptSummary(
        concept=name, fingerprint="f0", placeholder=f"<{text}>", noun=text,
        kind="style" if position % 6 == 5 else "object",
        reconstruction=value, reconstruction_low=value - 0.02, reconstruction_high=value + 0.02,
        reconstruction_floor=0.2, reconstruction_ceiling=0.6, covered=share,
        editability=0.3 - 0.01 * position, editability_floor=0.1, editability_ceiling=0.35, editability_covered=0.7,
        steps=100 + position, seconds=9.5, stopped_by="dvar", carried={"owner": text, "__proto__": text}, stated={"title": text},
        diversity=0.02 * position, diversity_ceiling=0.3, subject_fidelity=value - 0.05, nearest_own=0.5,
    )  # fmt: skip


def summary_of(*concepts: ConceptSummary, failed: int = 0) -> Summary:
    count = len(concepts)
    return Summary(
        done=count, failed=failed, unscored=0, covered=Estimate(0.7, 0.62, 0.77, count),
        reconstruction=Estimate(0.47, 0.44, 0.5, count), reconstruction_floor=0.2, reconstruction_ceiling=0.6,
        editability=Estimate(0.24, 0.22, 0.26, count), editability_floor=0.1, editability_ceiling=0.35,
        editability_covered=Estimate(0.6, 0.5, 0.7, count),
        scored_under=ScoredUnder("quick-v1", "mini", "m0", "mini", "c0", "dpm++", 20, 5.0), concepts=concepts,
        diversity=Estimate(0.11, 0.08, 0.14, count), diversity_ceiling=0.3,
        confusion=Confusion(count, 0.71, 1 / max(count, 1), 0.5, 0.2,
                            tuple(Mistaken(each.concept, each.concept, 0.25) for each in concepts[:12]), {}),
        difficulties={"background": Estimate(0.3, 0.28, 0.32, count), "style": Estimate(0.2, 0.19, 0.21, count)},
    )  # fmt: skip


def night(position: int, value: float, text: str = "owl", good: bool = True) -> Verdict:
    estimates = {
        metric: Estimate(value, value - 0.02, value + 0.02, 12)
        for metric in ("reconstruction", "editability", "diversity")
    }
    comparison = Comparison("reconstruction", text, 12, 0.5, value, 0.001, 0.01, not good, (Change(text, 0.6, 0.4),))
    reasons = () if good else (f"reconstruction fell; most of all {text} 0.600 -> 0.400",)
    against = f"2026-11-{position:02d}" if position else None
    return Verdict(f"2026-11-{position + 1:02d}", good, 12, estimates, against, 0.01, (comparison,),
                   CanaryReading("2026-11-01", 16, 0.0, 0.0), reasons)  # fmt: skip


@functools.cache
def plain_run() -> str:
    names = [f"thing-{position}" for position in range(12)]
    summary = summary_of(*(concept(position, name) for position, name in enumerate(names)))
    nights = [night(position, 0.5 + 0.01 * (position % 3)) for position in range(9)] + [night(9, 0.44, good=False)]
    background = Background("kind", nights, [Judge("timm:dino", {"reconstruction": 0.4, "subject fidelity": 0.3})])
    pictures = {name: grid(seed) for seed, name in enumerate(names)}
    return render_report(summary, pictures, (), {"steps": 300}, background=background)


def hostile_run() -> str:
    concepts = [concept(position, text, text) for position, text in enumerate(HOSTILE)]
    failures = [Failure(text, "images", f"no readable image: {text}") for text in HOSTILE]
    picture = grid(0)
    compared = tuple(comparison for text in HOSTILE for comparison in night(1, 0.4, text).comparisons)
    tonight = replace(night(1, 0.4, good=False), comparisons=compared, reasons=HOSTILE)
    return render_report(
        summary_of(*concepts, failed=len(failures)), dict.fromkeys(HOSTILE, picture), failures,
        {text: text for text in HOSTILE}, title=HOSTILE[0],
        background=Background("owner", [night(0, 0.5), tonight],
                              [Judge(text, {"reconstruction": 0.4}) for text in HOSTILE],
                              [Event(text, "worker_lost", text, text, text, text, text, None, text) for text in HOSTILE]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=SWITCHES)
        yield launched
        launched.close()


class Opened:
    """A page opened from a file, with whatever it complained of or asked for."""

    def __init__(self, browser: Browser, path: Path, width: int = 1280) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".card")

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def check_quiet(self) -> None:
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []
        assert len([url for url in self.requests if url.startswith("file:")]) == 1


@pytest.fixture(scope="module")
def plain_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "index.html"
    path.write_text(plain_run(), encoding="utf-8")
    return path


@pytest.fixture
def plain(browser: Browser, plain_file: Path) -> Iterator[Opened]:
    opened = Opened(browser, plain_file)
    yield opened
    opened.page.close()


def names(page: Page) -> list[str]:
    return page.locator("#gallery .name").all_inner_texts()


def test_it_opens_from_a_file_with_headline_marks_pictures_and_rows_and_without_a_request(plain: Opened) -> None:
    page = plain.page
    assert "at least 70 % of the way" in re.sub(r"\s+", " ", page.inner_text(".lead"))
    assert page.locator("#scatter .mark").count() == 12
    assert page.locator("#table tbody tr").count() == 12
    page.locator("#gallery img").last.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('#gallery img')].every((each) => each.complete && each.naturalWidth > 0)"
    )
    plain.check_quiet()


def test_it_shows_groups_nights_the_gates_limit_diversity_and_who_was_taken_for_whom(plain: Opened) -> None:
    page = plain.page
    assert page.locator("#groups tbody tr").last.inner_text().split()[:3] == ["style", "2", "80"]
    assert page.locator("#history svg.nights").count() == 2
    assert page.locator("#history svg").first.locator("circle.good").count() == 9
    assert page.locator("#history svg").first.locator("circle.bad").count() == 1
    # The circle of the bad night lies below the limit.
    limit = float(page.locator("#history svg .limit").first.get_attribute("y1") or "nan")
    assert float(page.locator("#history svg").first.locator("circle.bad").get_attribute("cy") or "nan") > limit
    assert "most of all owl 0.600 -> 0.400" in page.inner_text("#history .alarms")
    headline = page.inner_text(".figures")
    for expected in ("Diversity 0.110", "Recognised 71 %", "background: 0.300", "timm:dino"):
        assert expected in re.sub(r"\s+", " ", headline)
    page.locator(".figures summary").click()
    assert "thing-3 for thing-3: 25 % of its pictures" in page.inner_text(".figures details")
    page.select_option("#order", "diversity:1")
    assert names(page)[0] == "thing-0"
    plain.check_quiet()


def test_every_word_has_a_verdict_and_the_worst_are_first(plain: Opened) -> None:
    page = plain.page
    assert re.sub(r"\s+", " ", page.inner_text("#verdicts")) == "2 collapsed · 10 like its pictures"
    rows = [row.split()[:2] for row in page.locator("#table tbody tr").all_inner_texts()]
    assert rows[1:3] == [["thing-1", "collapsed"], ["thing-2", "like"]]
    assert page.locator("#concepts ~ #pictures").count() == 1, "the table comes first"
    links = [link.get_attribute("href") for link in page.locator("nav a").all()]
    assert {"#concepts", "#pictures"} <= {link for link in links if page.locator(link or "").count() == 1} == set(links)


def test_search_narrows_gallery_and_table_and_fades_the_other_marks(plain: Opened) -> None:
    plain.page.fill("#search", "THING-7")
    assert names(plain.page) == ["thing-7"]
    assert plain.page.locator("#table tbody tr").count() == 1
    assert plain.page.locator("#scatter .mark.faint").count() == 11
    assert plain.page.inner_text("#found") == "1 of 12"
    plain.page.fill("#search", "nothing like it")
    assert names(plain.page) == []
    plain.page.fill("#search", "")
    assert len(names(plain.page)) == 12
    plain.check_quiet()


def test_the_gallery_is_sorted_by_name_or_score(plain: Opened) -> None:
    assert names(plain.page)[:3] == ["thing-0", "thing-1", "thing-2"]
    plain.page.select_option("#order", "covered:-1")
    assert names(plain.page)[:2] == ["thing-11", "thing-10"]
    plain.page.select_option("#order", "editability:1")
    assert names(plain.page)[0] == "thing-11"


def test_a_press_on_a_columns_name_sorts_the_table_and_a_second_turns_it_round(plain: Opened) -> None:
    page = plain.page
    heading = page.locator("#table th", has_text="covered")
    first = page.locator("#table tbody tr:first-child td:first-child")
    heading.locator("button").click()
    assert first.inner_text() == "thing-11"
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert first.inner_text() == "thing-0"
    plain.check_quiet()


def test_pointing_at_a_mark_shows_its_grid_and_a_click_opens_it(plain: Opened) -> None:
    page = plain.page
    mark = page.locator("#scatter .mark[aria-label='thing-4']")
    mark.hover()
    assert page.inner_text("#hover .name") == "thing-4"
    width = page.eval_on_selector("#hover img", "async (image) => { await image.decode(); return image.naturalWidth; }")
    assert width == 900
    page.mouse.move(0, 0)
    assert not page.is_visible("#hover")
    mark.click()
    assert page.is_visible("#view img")
    assert page.get_attribute("#view a", "href") == "../grids/thing-4.png"
    assert "its file: title" in page.inner_text("#view")
    page.keyboard.press("Escape")
    assert not page.is_visible("#view")
    plain.check_quiet()


def test_it_fits_a_phone_without_scrolling_sideways(browser: Browser, plain_file: Path) -> None:
    opened = Opened(browser, plain_file, width=375)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    opened.page.close()


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(hostile_run(), encoding="utf-8")
    opened = Opened(browser, path)
    page = opened.page
    assert page.locator("#gallery .card").count() == len(HOSTILE)
    assert HOSTILE[0] in page.locator("#gallery").inner_text()
    assert "{{ 7*7 }}{% raw %}" in page.locator("#failures").inner_text()
    for position in range(len(HOSTILE)):
        page.locator("#gallery .card").nth(position).click()
        assert page.is_visible("#view h2")
        page.keyboard.press("Escape")
    page.locator("#scatter .mark").first.hover()
    page.fill("#search", "<script>")
    page.locator("#table th button").last.click()
    for summary in page.locator("summary").all():
        summary.click()
    assert HOSTILE[0] in page.inner_text("#groups")
    assert HOSTILE[1] in page.inner_text("#history")
    assert page.evaluate("window.hit") is None
    assert page.locator("script").count() == 2
    assert page.locator("img[src='x']").count() == 0
    opened.check_quiet()
    page.close()


def test_the_policy_stops_a_script_that_got_in_all_the_same(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    planted = "<script>window.hit=1</script><img src='https://example.invalid/x.png'>"
    path.write_text(plain_run().replace("</main>", f"{planted}</main>"), encoding="utf-8")
    opened = Opened(browser, path)
    assert opened.page.evaluate("window.hit") is None
    assert len([text for text in opened.complaints if "Content Security Policy" in text]) == 2
    opened.page.close()


def test_data_in_the_page_holds_no_markup() -> None:
    data = hostile_run().split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(data)
    assert HOSTILE[0] in [each["concept"] for each in json.loads(data)["concepts"]]


def test_the_same_run_makes_the_same_page() -> None:
    concepts = [concept(position, text, text) for position, text in enumerate(HOSTILE)]
    first, second = (render_report(summary_of(*concepts), {HOSTILE[0]: grid(0)}, (), {"steps": 1}) for _ in range(2))
    assert first == second


def test_hundreds_of_words_come_a_page_at_a_time_and_a_search_starts_at_the_first(
    browser: Browser, tmp_path: Path
) -> None:
    """Catches thousands of cards that are drawn at once, and a page whose last words cannot be reached."""
    concepts = [concept(0, f"thing-{position:03d}") for position in range(250)]
    (tmp_path / "index.html").write_text(render_report(summary_of(*concepts), {}, (), {}), encoding="utf-8")
    opened = Opened(browser, tmp_path / "index.html")
    page, cards, rows = opened.page, opened.page.locator(".card"), opened.page.locator("#table tbody tr")
    assert (cards.count(), rows.count()) == (36, 200)
    page.click("#more")
    page.click("#more-rows")
    assert (cards.count(), rows.count()) == (72, 250)
    assert page.locator("#more-rows").is_hidden()
    for _ in range(5):
        page.click("#more")
    assert len(set(names(page))) == 250
    assert page.locator("#more").is_hidden()
    page.fill("#search", "thing-2")
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 50")
    assert cards.count() == 36
    opened.check_quiet()


def test_concepts_without_scores_and_a_run_without_words_have_a_page() -> None:
    nan = float("nan")
    none = Estimate(nan, nan, nan, 0)
    unscored = replace(
        concept(0, "a"), noun=None, reconstruction=nan, reconstruction_low=nan, reconstruction_high=nan,
        reconstruction_floor=nan, reconstruction_ceiling=nan, covered=nan, editability=nan, editability_floor=nan,
        editability_ceiling=nan, editability_covered=nan,
    )  # fmt: skip
    for concepts in ((unscored,), ()):
        summary = Summary(len(concepts), 1, len(concepts), none, none, nan, nan, none, nan, nan, none, None, concepts)
        page = render_report(summary, {}, [Failure("b", "images", "no readable image")], {})
        assert "No concept has a score" in page
        assert "no readable image" in page
        assert ">nan<" not in page.lower()


def test_the_lines_at_the_end_name_no_floor_that_the_protocol_does_not_give() -> None:
    nan = float("nan")
    drawn, none = Estimate(0.5, 0.4, 0.6, 2), Estimate(nan, nan, nan, 0)
    summary = Summary(2, 0, 0, none, drawn, nan, 0.875, drawn, 0.125, nan, none, None, ())
    assert headline(summary).splitlines() == [
        "reconstruction 0.500, real pictures 0.875",
        "editability    0.500, pictures without the edit 0.125",
    ]
