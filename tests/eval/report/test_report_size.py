"""The report's page stays small, however many concepts and pictures a run has."""

import functools
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eval.report.report_page import THUMBNAIL_BYTES, Background, render_report, thumbnail
from pipeline.records import Failure
from tests.eval.report.test_report_page import concept, grid, night, plain_run, summary_of


def test_twelve_grids_stay_below_a_megabyte_and_a_half() -> None:
    assert len(plain_run()) < 1_500_000


def test_a_thumbnail_is_small_even_of_noise_and_a_picture_that_cannot_be_read_has_none() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1400, 3), dtype=np.uint8)).save(buffer, "PNG")
    small = thumbnail(buffer.getvalue())
    assert small is not None
    assert len(small) <= THUMBNAIL_BYTES
    with Image.open(io.BytesIO(small)) as picture:
        assert picture.format == "WEBP"
        assert picture.width <= 900
    assert thumbnail(b"no picture") is None
    assert thumbnail(buffer.getvalue()[:500]) is None


def test_pictures_beyond_the_room_are_linked_the_best_and_the_worst_embedded_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eval.report.report_page.PICTURE_BYTES", 3 * len(thumbnail(grid(0)) or b""))
    concepts = [concept(position, f"thing-{position}") for position in range(12)]
    page = render_report(summary_of(*concepts), {each.concept: grid(0) for each in concepts}, (), {})
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert set(data["pictures"]) == {"thing-0", "thing-11"}
    assert data["concepts"][1]["link"] == "../grids/thing-1.png"


def test_a_run_of_thousands_shows_a_sample_with_its_extremes_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    concepts = [concept(0, f"thing-{position:06d}", covered=position / 20_000) for position in range(20_000)]
    page = render_report(summary_of(*concepts), {}, (), {})
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    shown = [each["concept"] for each in data["concepts"]]
    assert len(shown) == len(set(shown)) == 10_000
    assert {"thing-000000", "thing-000049", "thing-019999", "thing-019950"} <= set(shown)
    assert "10,000 of 20,000 concepts are shown" in re.sub(r"\s+", " ", page)
    assert len(page) < 12_000_000


@pytest.mark.long
def test_at_a_hundred_thousand_concepts_with_all_that_a_manifest_can_carry_the_page_stays_below_25_megabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches what grows with the run: rows with long columns, groups, reasons of failures, pictures."""
    # All pictures are one: made small once, it is embedded as often as ever.
    monkeypatch.setattr("eval.report.report_page.thumbnail", functools.cache(thumbnail))
    long = "a column of some length, " * 40
    columns = {f"column {position}": long for position in range(8)}
    concepts = [
        replace(
            concept(0, f"thing-{position:06d}", covered=position / 1e5),
            carried={**columns, "each": f"{long}{position}"},
        )
        for position in range(100_000)
    ]
    failures = [Failure(f"failed-{position}", "images", f"{long}{position}") for position in range(20_000)]
    picture = grid(0)

    class Everywhere(dict[str, bytes]):
        def __contains__(self, name: object) -> bool:
            return True

        def __missing__(self, name: str) -> bytes:
            return picture

    page = render_report(summary_of(*concepts, failed=len(failures)), Everywhere(), failures, {"x": long * 10_000},
                         background=Background("each", [night(each, 0.5) for each in range(90)]))  # fmt: skip
    assert len(page.encode()) < 25_000_000
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    shown = [each["concept"] for each in data["concepts"]]
    assert {"thing-000000", "thing-099999"} <= set(shown)
    assert max(np.diff([int(name[-6:]) for name in shown])) < 1_000, "an even spread"
    assert "99,800 more groups" in page
    assert "19,900 other reasons" in page
