"""The figures of the shipped model's report, a row for each kind of concept."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from eval.judges.clip import load_clip
from eval.judges.outline import OutlineScorer
from jobs.api import RunRequest, invert
from jobs.mini.mini_report import DRAWN, LEARNED_FROM, words_sheet
from jobs.mini.recipe.art import ART_SETS, Art
from jobs.mini.report_by_kind import BARS, PROTOCOL, _named, _nearest, figures_of_words
from jobs.mini.three_kinds import INDIVIDUAL, STYLES, write_three_kinds
from pipeline.records import Sample
from pipeline.settings import InversionSettings
from tests.random_drawings import random_drawings

SHAPES = ("ellipse", "rectangle")


def drawing(number: int, turn: int) -> Image.Image:
    page = Image.new("RGB", (64, 64), "white")
    box = (6 + turn, 10, 50 + turn, 54)
    getattr(ImageDraw.Draw(page), SHAPES[number])(box, fill=("red", "blue")[number])
    return page


def sample(number: int, kind: str, turn: int) -> Sample:
    drawing(number, turn).save(buffer := io.BytesIO(), "PNG")
    return Sample(SHAPES[number], kind, "", "", turn, 0, buffer.getvalue())  # type: ignore[arg-type]


@pytest.mark.parametrize(("drawn_as", "share"), [((0, 1), 1.0), ((1, 0), 0.0), ((0, 0), 0.5)])
def test_samples_count_where_they_are_nearest_to_their_own_concept(drawn_as: tuple[int, int], share: float) -> None:
    """Catches a figure that counts another concept's pictures as one's own, or another thing's name as the thing's."""
    samples = {
        name: [sample(number, "training", turn) for turn in range(3)]
        + [Sample(name, "reconstruction", "", "", 0, 0, sample(drawn_as[number], "reconstruction", 4).png)]
        + [Sample(name, "noun", "", "", 0, 0, sample(0, "noun", 4).png)]
        for number, name in enumerate(SHAPES)
    }
    figure = _nearest(INDIVIDUAL, SHAPES, samples, OutlineScorer())
    assert figure.value == share
    assert figure.said == f"{share:.0%} (100%)"
    sprites = [np.asarray(drawing(number, 0).convert("RGBA")) for number in range(2)]
    drawings = Art(SHAPES, np.stack(sprites)[:, None].repeat(len(ART_SETS), 1))
    named = _named({name: name for name in SHAPES}, samples, drawings, OutlineScorer())
    assert (named.value, named.said) == (share, f"{share:.0%} (100%; 50%)")


@pytest.mark.long
def test_each_kind_has_its_rows_and_each_pair_counts_once(tmp_path: Path) -> None:
    """Catches a report that cannot be made from what the job writes."""
    drawings = random_drawings()
    manifest = write_three_kinds(drawings, tmp_path / "concepts", 2)
    (tmp_path / "report.toml").write_text(PROTOCOL, encoding="utf-8")
    run = tmp_path / "run"
    result = invert(
        RunRequest(
            str(manifest), output=str(run), protocol=str(tmp_path / "report.toml"), settings=InversionSettings(steps=2)
        )
    )
    assert (len(result.done), result.failures) == (4 + len(STYLES), {})
    figures = figures_of_words(run, drawings, [load_clip(), OutlineScorer()])
    assert all(0 <= figure.value <= 1 or "median" in figure.name for figure in figures)
    for kind in BARS:
        assert sum(figure.name.startswith(f"{kind}s: samples nearest") for figure in figures) == 2, kind
    assert [figure.name for figure in figures if figure.name.startswith("two words")] == [
        "two words, 2 pairs in both orders: pictures with both, by the run's CLIP"
    ]
    words_sheet(run, tmp_path / "words.webp")
    with Image.open(tmp_path / "words.webp") as sheet:
        tiles, rows = 3 * (LEARNED_FROM + DRAWN), -(-len(result.done) // 3)
        assert sheet.size == (tiles * 68, rows * 82)
        last = np.asarray(sheet.convert("RGB"))[-82:, : 68 * (LEARNED_FROM + DRAWN)]
    assert last.std() > 10, "the last concept's pictures are on the sheet"
