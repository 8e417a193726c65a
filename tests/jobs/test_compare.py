"""jobs/compare.py as a user runs it: two ways of learning two words, stopped and resumed."""

from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster import session
from jobs import compare
from tests.test_documents import ROOT

IMAGES = ROOT / "jobs" / "demo" / "images"


@pytest.mark.long
def test_a_comparison_is_resumed_and_nothing_is_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a Ray for each run, pictures without the word that are drawn anew, and a page that hides what it is of."""
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "concept,images,class,kind,group,description\n"
        f"taxi,{IMAGES / 'taxi'},car,object,thing,a yellow car\n"
        f"bus,{IMAGES / 'bus'},bus,object,thing,\n"
        f"duotone,{IMAGES / 'duotone'},painting,style,style,\n",
        encoding="utf-8",
    )
    started: list[int | None] = []
    local = session._local_ray

    def counted(cpus: int | None) -> AbstractContextManager[None]:
        started.append(cpus)
        return local(cpus)

    monkeypatch.setattr(session, "_local_ray", counted)
    output = tmp_path / "out"
    given = ["--manifest", str(manifest), "--output", str(output), "--steps", "2", "--variants", "2 vectors"]
    assert compare.main([*given, "--seeds", "1"]) == compare.COMPARED
    assert len(started) == 1
    assert {path.name for path in output.iterdir() if path.is_dir()} == {"one-vector", "two-vectors", "untrained"}
    made = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet") if path.name != "points.parquet"}
    assert compare.main([*given, "--seeds", "2"]) == compare.COMPARED
    assert len(started) == 2
    assert made == {path: path.stat().st_mtime_ns for path in made}
    points = pq.read_table(output / "points.parquet").to_pandas()
    counts = points.groupby("variant")[["concept", "seed"]].nunique()
    assert counts.loc["2 vectors"].tolist() == counts.loc["1 vector"].tolist() == [3, 2]
    assert counts.loc["no word"].tolist() == [3, 1]
    assert counts.loc["human caption, description"].tolist() == [1, 1]
    whole, thing, style = (output / "table.md").read_text().split("\n\n")
    assert "| 2 vectors | 3 | 2 | " in whole
    assert "| 2 vectors | 2 | 2 | " in thing
    assert style.startswith("| style | concepts | seeds |")
    assert "| 2 vectors | 1 | 2 | " in style
