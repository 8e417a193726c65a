"""Opens the report of many concepts in Chromium: the page's size, and the time until it is painted and can be used.

  python -m jobs.bench.bench_report --concepts 10000

The concepts' figures are drawn at random and the pictures are one grid of the demo's size.
Uses the Chromium on the PATH, else Playwright's.
"""

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from eval.report.report_page import render_report
from eval.scores.score_tables import SCORES
from eval.scores.summary import ConceptSummary, summarise
from pipeline.records import Failure
from pipeline.store.run_tables import EMBEDDINGS

MOST_CONCEPTS = 1_000_000
TIMES = """() => {
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const whole = performance.getEntriesByType("navigation")[0];
  return [paint ? paint.startTime : NaN, whole.domContentLoadedEventEnd];
}"""


def page_of(count: int) -> str:
    """The report of `count` concepts of three shops, one in a hundred of which failed."""
    rng = np.random.default_rng(0)
    concepts = tuple(_concept(rng, position) for position in range(count))
    failures = [Failure(f"failed-{position}", "images", "no picture could be read") for position in range(count // 100)]
    nothing = summarise(SCORES.empty_table(), EMBEDDINGS.empty_table(), failures, rng)
    summary = replace(nothing, done=count, concepts=concepts)
    grid = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((1078, 930))
    sink = io.BytesIO()
    grid.save(sink, "PNG")
    return render_report(
        summary, {each.concept: sink.getvalue() for each in concepts[:150]}, failures, {}, "many concepts"
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench_report.py", description=__doc__)
    parser.add_argument(
        "--concepts", type=count_of, default=10_000, metavar="N", help="how many (default: %(default)s)"
    )
    return parser


def count_of(said: str) -> int:
    """A type of options: a number of concepts."""
    if not said.isdecimal() or not 1 <= int(said) <= MOST_CONCEPTS:
        raise argparse.ArgumentTypeError(f"{said}: it takes a whole number from 1 to {MOST_CONCEPTS:,}")
    return int(said)


def main(argv: Sequence[str] | None = None) -> None:
    count = parser().parse_args(argv).concepts
    began = time.monotonic()
    page = page_of(count)
    made = time.monotonic() - began
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "index.html"
        path.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        opened = browser.new_page()
        opened.goto(path.as_uri())
        opened.wait_for_selector("#table tbody tr")
        paint, usable = opened.evaluate(TIMES)
        began = time.monotonic()
        opened.fill("#search", "thing-0007")
        opened.locator("#table tbody tr").nth(150).wait_for(state="detached")
        searched = time.monotonic() - began
        browser.close()
    print(
        f"{count:,} concepts: {len(page.encode()) / 1e6:.1f} MB, made in {made:.1f} s; first paint after {paint / 1000:.1f} s, "
        f"usable after {usable / 1000:.1f} s, a search takes {searched:.1f} s"
    )


def _concept(rng: np.random.Generator, position: int) -> ConceptSummary:
    share, editability = rng.normal(0.6, 0.2), rng.normal(0.3, 0.03)
    value = 0.4 + 0.5 * share
    return ConceptSummary(
        f"thing-{position:06d}", "f", f"<thing-{position:06d}>", "mug", "object", value, value - 0.02, value + 0.02, 0.4, 0.9,
        share, editability, 0.1, 0.4, 0.7, 48, 9.0, "steps",
        {"shop": ("north", "south", "west")[position % 3], "price": str(position)},
        diversity=float(rng.uniform(0, 0.3)), diversity_ceiling=0.3, effect=float(rng.uniform(0, 0.5)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
