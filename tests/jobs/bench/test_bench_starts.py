"""What words gain by starting from their pictures is measured part by part, and a call for more goes on from what is there."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.bench import bench_starts
from tests.random_drawings import random_drawings


@pytest.mark.long
def test_a_larger_archive_and_more_concepts_go_on_from_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a last batch of the smaller archive, and a table of fewer concepts or starts, taken for the larger one's."""
    monkeypatch.setattr("jobs.bench.bench_starts.art.load_art", lambda _: random_drawings())
    monkeypatch.setattr(bench_starts, "RECIPE", replace(bench_starts.RECIPE, steps=1))
    monkeypatch.setattr(bench_starts, "DRAWN", replace(bench_starts.DRAWN, plain_images=1, steps=1))
    monkeypatch.setattr(bench_starts, "LOOKS", (0, 1))

    def table(*archives: str, concepts: str) -> str:
        arguments = [
            "--output",
            str(tmp_path),
            "--archives",
            *archives,
            "--concepts",
            concepts,
            "--seeds",
            "2",
            "--processes",
            "2",
        ]
        assert bench_starts.main(arguments) == 0
        printed = capsys.readouterr()
        assert printed.out == (tmp_path / "table.md").read_text(encoding="utf-8") + "\n"
        return printed.out

    def learned_at() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "archive").iterdir()}

    small = table("10", concepts="2")
    words = learned_at()
    large = table("10", "12", concepts="3")
    assert "archive of 10" in small
    assert "archive of 12" not in small
    assert "archive of 12" in large
    assert "## individuals: 2," in small
    assert "## individuals: 3," in large
    kept = learned_at()
    assert words["0 to 8.safetensors"] == kept["0 to 8.safetensors"]
    assert table("10", concepts="2") == small
    assert learned_at() == kept
