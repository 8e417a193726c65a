"""A catalogue over four nights, on a real local Ray and a real S3 server: rows come, change, go, break and return."""

import io
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import jobs.application.drawing.pictures
from jobs.application.phases import Counts
from jobs.evaluate import main as evaluate
from jobs.generate import main as generate
from jobs.invert_all import main as invert_all
from jobs.status import main as status
from pipeline.store.storage import Storage
from tests.conftest import Bucket
from tests.job_process import DEMO, few_pictures

COUNTS = ("done", "failed", "retired")


class Shop:
    """A manifest, its pictures and its run folder, in one bucket."""

    def __init__(self, bucket: Bucket, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url, self.store = bucket.url, Storage(bucket.url, bucket.options)
        self.options = ("--storage-option", f"endpoint_url={bucket.endpoint}")
        self.protocol, self.capsys = few_pictures(folder), capsys

    def pictures(self, name: str, of: str, count: int) -> None:
        for picture in sorted((DEMO / "images" / of).iterdir())[:count]:
            self.store.write_bytes(f"pictures/{name}/{picture.name}", picture.read_bytes())

    def night(self, code: int, rows: dict[str, dict[str, Any]], *more: str) -> str:
        """Runs the manifest of these rows. Returns the log."""
        lines = [
            json.dumps({"concept": name, "images": f"pictures/{name}", "class": "toy", **row})
            for name, row in rows.items()
        ]
        self.store.write_bytes("manifest.jsonl", "\n".join(lines).encode())
        found = invert_all([
            f"{self.url}/manifest.jsonl", "--output", f"{self.url}/run", "--steps", "2", "--slots", "2", "--workers", "1",
            "--protocol", str(self.protocol), *self.options, *more,
        ])  # fmt: skip
        said = self.capsys.readouterr()
        assert found == code, said.out + said.err
        return said.out

    def draw(self, code: int, *words: str) -> str:
        """Draws one picture of <taxi> with these options. Returns what was said."""
        asked = ("--prompt", "a photo of <taxi>", "--count", "1", "--steps", "2")
        counts = Counts()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs.application.drawing.pictures, "phase", lambda *_: nullcontext(counts))
            found = generate([f"{self.url}/run", *asked, *words, *self.options])
        said = self.capsys.readouterr()
        assert found == code, said.out + said.err
        assert (counts.done, counts.total) == ((1, 1) if code == 0 else (0, 0))
        return said.out + said.err

    def counts(self, night: str) -> dict[str, dict[str, int]]:
        """Of every command, and of every file that has them."""
        assert evaluate([f"{self.url}/run", "--night", night, "--group-by", "shop", *self.options]) in (0, 1)
        said = self.capsys.readouterr().out
        assert status([f"{self.url}/run", "--log-format", "json", *self.options]) == 0
        found = {
            "status": json.loads(self.capsys.readouterr().out), "run.json": self.json("run.json")["counts"],
            "progress.json": self.json("progress.json"), "report": self.json("report/summary.json"),
        }  # fmt: skip
        counts = {name: {each: one[each] for each in COUNTS} for name, one in found.items()}
        one = counts["run.json"]
        retired = f", {one['retired']} retired" if one["retired"] else ""
        assert f"\n{one['done']} concepts done, {one['failed']} failed{retired}\n" in said
        return counts

    def json(self, path: str) -> dict[str, Any]:
        return dict(json.loads(self.store.read_bytes(f"run/{path}")))

    def table(self, folder: str) -> pd.DataFrame:
        place = self.store.folder(f"run/{folder}")
        parts = [path for path in place.find() if path.endswith(".parquet")]
        return pd.concat([pd.read_parquet(io.BytesIO(place.read_bytes(path))) for path in parts])

    def words(self) -> dict[str, bytes]:
        place = self.store.folder("run/words")
        return {path.removesuffix(".safetensors"): place.read_bytes(path) for path in place.find()}


@pytest.mark.long
def test_all_commands_count_alike_while_rows_come_change_go_break_and_return(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a deleted row that is scored for ever, a stale column, a returning row that is trained again, four truths, and a
    retired word whose file draws nothing.
    """
    shop = Shop(bucket, tmp_path, capsys)
    for name in ("owl", "taxi"):
        shop.pictures(name, name, 2)

    def agree(night: str, done: int, failed: int, retired: int) -> None:
        wanted = dict(zip(COUNTS, (done, failed, retired), strict=True))
        assert shop.counts(night) == dict.fromkeys(("status", "run.json", "progress.json", "report"), wanted)

    # The first night: two words.
    shop.night(0, {"owl": {"shop": "north", "price": 5}, "taxi": {"shop": "south", "price": 7}})
    agree("n1", 2, 0, 0)
    first = shop.words()
    assert shop.json("progress.json")["state"] == "finished"

    # The second: a new row, a broken one, a deleted one, and a column that says something else.
    shop.pictures("cup", "owl", 1)
    rows: dict[str, dict[str, Any]] = {
        "owl": {"shop": "west", "price": 6},
        "cup": {"shop": "west", "price": None},
        "gone": {"shop": "west"},
    }
    said = shop.night(1, rows)
    assert "1 word is no longer in the manifest (taxi)" in said
    assert "to do     2 of 3 concepts; 1 are done" in said
    agree("n2", 2, 1, 1)
    assert set(shop.words()) == {"owl", "cup"}
    assert shop.words()["owl"] == first["owl"]
    for table in ("embeddings", "samples", "scores"):
        assert set(shop.table(table)["concept"]) == {"owl", "cup"}, table
    report = shop.table("report").set_index("concept")
    assert dict(report.groupby("shop").size()) == {"west": 2}
    (kept,) = re.findall(r"--word (\S+)", shop.draw(2))
    assert "1 pictures and contact-sheet.png in" in shop.draw(0, "--word", kept)
    assert shop.json("generated/generated.json")["pictures"][0]["prompt"] == "a photo of <taxi>"
    assert report["price"].dtype.kind == "f"  # whole numbers with a gap, as pandas reads them
    assert report["price"]["owl"] == 6

    # The third: the deleted row returns, the new one changes, the broken one is known to be.
    shop.pictures("cup", "taxi", 2)
    rows |= {"taxi": {"shop": "south", "price": 7}}
    rows["owl"]["placeholder"] = "<uhu>"
    shop.store.write_bytes("known.txt", b"gone\n")
    said = shop.night(0, rows, "--accept-failures", f"{shop.url}/known.txt")
    assert "1 word is in the manifest again (taxi), and done without training" in said
    assert "to do     1 of 4 concepts; 2 are done" in said
    assert "1 word has another placeholder (owl: <owl> -> <uhu>), and the same vectors" in said
    scores = shop.table("scores")
    assert set(scores[scores["concept"] == "owl"]["shop"]) == {"west"}
    assert scores[scores["concept"] == "owl"]["prompt"].str.contains("<uhu>").any()
    agree("n3", 3, 1, 0)
    assert shop.words()["taxi"] == first["taxi"]

    # The fourth: all but one word is gone, and soon removed.
    said = shop.night(0, {"owl": {"shop": "west", "price": 6}}, "--retired-days", "0")
    assert "2 words are no longer in the manifest (cup, taxi)" in said
    agree("n4", 1, 0, 0)
    assert shop.words() == {"owl": first["owl"]}  # under its first name again
    assert not shop.store.find("run/_retired")
