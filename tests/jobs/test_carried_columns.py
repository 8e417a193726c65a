"""A manifest's own columns in the tables of a run folder, written and read over several nights on a real disk."""

import datetime
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.scores.score_tables import SCORES, made_under
from jobs.application.report_run import write_report
from pipeline.inputs.manifest import read_manifest
from pipeline.store.catalogue.carried import WIDEST, carried_table
from pipeline.store.catalogue.listed import ManifestList, write_list
from pipeline.store.parts import create_layout, read_layout, read_parts
from pipeline.store.publish import publish
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import Storage
from tests.pipeline.store.test_old_run import DONE, MADE, UNDER

TABLES = ("scores", "embeddings", "report/concepts.parquet")
DAY, NOON = datetime.date(2026, 1, 31), datetime.datetime.fromisoformat("2026-01-31T12:00:00.000005")
ZONED = NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1)))


class Folder:
    """A run folder of an older version, of the words cat and truck, and the manifest of each night."""

    def __init__(self, folder: Path) -> None:
        self.path, self.manifest = folder / "run", folder / "manifest.parquet"
        self.run = RunFolder(Storage(str(shutil.copytree(MADE / "run", self.path))))

    def night(self, rows: pa.Table, name: str = "manifest.parquet") -> None:
        """What a run does with the columns of these rows: concept, and the manifest's own."""
        pq.write_table(rows.append_column("images", pa.array(["images/"] * len(rows))), self.manifest)
        manifest = read_manifest(str(self.manifest))
        write_list(self.run, ManifestList(name, tuple(DONE), manifest.types))
        publish(self.run, DONE, create_layout(self.run, 2), {each.name: each for each in manifest.concepts})
        write_report(self.run, UNDER, self.run.read_run())

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.path / name)

    def written(self) -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns for path in self.path.rglob("*.parquet") if "report" not in str(path)
        }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def both(**columns: Any) -> pa.Table:
    return pa.table({"concept": ["cat", "truck"], **columns})


def test_columns_are_plain_ones_of_the_types_that_the_manifest_has(folder: Folder) -> None:
    """Catches a number that is text, a date in quotation marks, a gap that is a group of its own, and a score without its shop."""
    folder.night(both(
        shop=["north", None], price=pa.array([5, None], pa.int64()), weight=[1.0, float("nan")], sold=[True, None],
        since=[DAY, None], seen=[NOON, None], zoned=pa.array([ZONED, None], pa.timestamp("us", "Europe/Berlin")),
        cost=pa.array([Decimal("1.50"), None]), tags=[["a", "b"], None],
    ))  # fmt: skip
    wanted = {
        "shop": "north", "price": 5, "weight": 1.0, "sold": True, "since": DAY, "seen": NOON, "zoned": ZONED, "cost": 1.5,
        "tags": '["a", "b"]',
    }  # fmt: skip
    for name in TABLES:
        table = pq.read_table(folder.path / name)
        kinds = {each.name: str(each.type) for each in table.schema if each.name in wanted}
        assert kinds == {
            "shop": "string", "price": "int64", "weight": "double", "sold": "bool", "since": "date32[day]",
            "seen": "timestamp[us]", "zoned": "timestamp[us, tz=UTC]", "cost": "double", "tags": "string",
        }, name  # fmt: skip
        rows = table.to_pylist()
        assert {row["concept"] for row in rows} == set(DONE)
        for row in rows:
            found = {column: row[column] for column in wanted}
            assert found == (wanted if row["concept"] == "cat" else dict.fromkeys(wanted)), name
    scores = folder.table("scores")
    assert scores.groupby("shop")["value"].count().to_dict() == {"north": (scores["concept"] == "cat").sum()}


def test_a_column_called_like_one_of_ours_stands_beside_it(folder: Folder) -> None:
    """Catches a manifest's `value` that is taken for a score, or that has a part of scores/ scored anew."""
    before = {name: folder.table(name) for name in ("scores", "embeddings")}
    folder.night(
        both(value=["dear", "cheap"], manifest_value=[1, 2], metric=[True, False], loss=[1, 2], carried=[3, 4])
    )
    scores = folder.table("scores")
    assert scores[before["scores"].columns].equals(before["scores"])
    cat = scores[scores["concept"] == "cat"].iloc[0]
    assert (cat["manifest_manifest_value"], cat["manifest_value"], cat["manifest_metric"]) == ("dear", 1, True)
    embeddings = folder.table("embeddings").set_index("concept")
    assert (embeddings["manifest_loss"]["truck"], embeddings["manifest_carried"]["truck"]) == (2, 4)
    assert embeddings["loss"].tolist() == before["embeddings"]["loss"].tolist()
    read = read_parts(folder.run, "scores", read_layout(folder.run)["scores"], SCORES)
    assert len(made_under(read, UNDER)) == len(before["scores"])


def test_a_night_that_changes_a_type_or_drops_a_column_is_followed_everywhere(folder: Folder) -> None:
    """Catches parts of one table that no reader can put together, and a column that is gone and stays."""
    folder.night(both(price=[5, 6], shop=["north", "south"]))
    folder.night(both(price=["5", "on request"]))
    for name in TABLES:
        table = folder.table(name)
        assert set(table["price"]) == {"5", "on request"}, name
        assert "shop" not in table.columns, name
    folder.night(both(price=[5, 6]), name="other.parquet")
    assert set(folder.table("scores")["price"]) == {"5", "6"}  # the first manifest still says text


def test_a_night_without_a_changed_column_writes_no_table(folder: Folder) -> None:
    """Catches a catalogue that is written anew every night."""
    folder.night(both(price=[5, 6]))
    before, samples = folder.written(), folder.table("samples")
    folder.night(both(price=[5, 6]))
    assert folder.written() == before
    folder.night(both(price=[5, 7]))
    changed = {path for path, time in folder.written().items() if before[path] != time}
    assert {Path(path).parent.name for path in changed} == {"scores", "embeddings"}
    assert "samples" in {Path(path).parent.name for path in before}
    assert folder.table("samples").equals(samples)


def test_long_texts_and_a_thousand_columns_leave_scores_readable(folder: Folder) -> None:
    """Catches a description of the manifest that makes scores/ too large to be read, so that all words are scored for ever."""
    wide = {f"column {number:04d}": [str(number)] * 2 for number in range(990)}
    folder.night(both(description=["long " * 100_000, "short"], shop=["north", "south"], **wide))
    scores = folder.table("scores")
    assert "description" not in scores.columns
    plain = [name for name in scores.columns if name.startswith("column ")]
    assert 0 < len(plain) <= WIDEST / 8
    read = read_parts(folder.run, "scores", read_layout(folder.run)["scores"], SCORES)
    assert len(read) == len(scores)
    assert "description" in folder.table("report/concepts.parquet").columns
    assert len(read_parts(folder.run, "embeddings", 1, EMBEDDINGS)) == 2


def test_jsonl_has_types_and_csv_has_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"price": 5, "rate": 1, "new": True, "since": "2026-01-31"},
        {"price": None, "rate": 0.5, "new": False},
    ]
    lines = [json.dumps({"concept": f"c{number}", "images": "x/", **row}) for number, row in enumerate(rows)]
    (tmp_path / "some.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = read_manifest(str(tmp_path / "some.jsonl"))
    assert found.types == {"price": "integer", "rate": "number", "new": "boolean", "since": "text"}
    table = carried_table({each.name: each.carried for each in found.concepts}, found.types)
    assert table["rate"].to_pylist() == [1, 0.5]
    assert table["price"].to_pylist() == [5, None]
    (tmp_path / "some.csv").write_text("concept,images,price\na,x/,5\nb,x/,\n", encoding="utf-8")
    csv = read_manifest(str(tmp_path / "some.csv"))
    table = carried_table({each.name: each.carried for each in csv.concepts}, csv.types)
    assert table["price"].to_pylist() == ["5", None]
