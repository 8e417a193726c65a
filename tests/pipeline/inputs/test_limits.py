"""What is read of manifests, lists, sentences and folders, each at and beyond its limit; memory and output are measured."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.peak import peak_of
from jobs.generate import main as generate
from pipeline.inputs.image_sets import ImageSetError, find_images, find_sources, load_images
from pipeline.inputs.manifest import ManifestError, read_manifest
from pipeline.inputs.manifest_problems import LISTED, MOST_CELLS, MOST_COLUMNS, MOST_PROBLEMS, MOST_ROWS
from pipeline.inputs.sidecars import Extras
from pipeline.protocols import ProtocolError, find_protocol
from pipeline.settings import InversionSettings
from pipeline.store.storage import Storage
from pipeline.text_files import MOST_SENTENCE, MOST_TEXT_BYTES, sentences_of_file
from tests.pipeline.inputs.test_image_sets import concept, png

READING = ("from pipeline.inputs.manifest import read_manifest", "read_manifest(sys.argv[1])")


def repeated(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text])


def refused(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(str(path))
    return str(caught.value)


def test_three_megabytes_of_bad_rows_make_a_message_of_a_thousand_lines(tmp_path: Path) -> None:
    """Catches a message of 257 MB."""
    (tmp_path / "m.csv").write_text("concept,images\n" + "!,x\n" * 800_000)
    grown, raised = peak_of(*READING, tmp_path / "m.csv")
    assert f"over {MOST_PROBLEMS:,} things are wrong" in raised
    assert grown < 300
    said = refused(tmp_path / "m.csv")
    assert len(said.splitlines()) == LISTED + 1
    assert len(said) < 200_000


@pytest.mark.parametrize("line", ['{"concept": 1,', "[]", '{"a": 1, "a": 2}', '{"concept": "!", "images": "x"}'])
def test_a_manifest_that_is_wrong_all_over_is_left(tmp_path: Path, line: str) -> None:
    (tmp_path / "m.jsonl").write_text(f"{line}\n" * (MOST_PROBLEMS + 1))
    assert "not read to its end" in refused(tmp_path / "m.jsonl")
    with pytest.raises(ManifestError):
        read_manifest(str(tmp_path / "m.jsonl"), skip_invalid=True)


@pytest.mark.parametrize("rows", [1_000_000, 200_000])
def test_a_parquet_of_one_row_again_and_again_is_refused_at_once(tmp_path: Path, rows: int) -> None:
    """Catches a file of six kilobytes that takes a minute."""
    pq.write_table(
        pa.table({"concept": repeated("cat", rows), "images": repeated("cat/", rows)}), tmp_path / "m.parquet"
    )
    assert (tmp_path / "m.parquet").stat().st_size < 10_000
    grown, raised = peak_of(*READING, tmp_path / "m.parquet")
    assert "they repeat, and each needs a name of its own" in raised
    assert grown < 100


LONG_CELL = "x" * 10_000_000


@pytest.mark.parametrize("kind", ["plain", "lists", "one list", "restored"])
def test_a_parquet_of_one_long_cell_again_and_again_is_left_at_the_limit(tmp_path: Path, kind: str) -> None:
    """Catches 50 GB of text from 60 kilobytes: the file says of itself that it unpacks to ten megabytes."""
    texts = repeated(LONG_CELL, 5_000)
    images: pa.Array = {
        "plain": lambda: texts,
        "lists": lambda: pa.ListArray.from_arrays(pa.array(range(5_001), pa.int32()), texts),
        "one list": lambda: pa.ListArray.from_arrays(pa.array([0] * 5_000 + [5_000], pa.int32()), texts),
        "restored": lambda: texts,
    }[kind]()
    cells = pa.table({"concept": [f"c{row}" for row in range(5_000)], "images": images})
    pq.write_table(
        cells,
        tmp_path / "m.parquet",
        compression="zstd",
        dictionary_pagesize_limit=20_000_000,
        store_schema=kind == "restored",
    )
    assert (tmp_path / "m.parquet").stat().st_size < 60_000
    grown, raised = peak_of(*READING, tmp_path / "m.parquet")
    assert "unpacks to more than 500,000,000 bytes" in raised
    assert grown < 300


def test_a_parquet_of_many_row_groups_or_columns_is_refused(tmp_path: Path) -> None:
    rows = pa.table({"concept": [f"c{row}" for row in range(10_001)], "images": ["x"] * 10_001})
    pq.write_table(rows, tmp_path / "m.parquet", row_group_size=1)
    assert "10,001 row groups; at most 10,000" in refused(tmp_path / "m.parquet")
    pq.write_table(pa.table({f"c{column}": [1] for column in range(1_001)}), tmp_path / "m.parquet")
    assert "1,001 columns; at most 1,000" in refused(tmp_path / "m.parquet")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_columns_and_cells_have_limits_in_text_too(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"m.{suffix}"
    rows = [{"concept": f"c{row}", "images": "x"} for row in range(11)]
    lines = ["concept,images", *(f"{row['concept']},x" for row in rows)] if suffix == "csv" else map(json.dumps, rows)
    path.write_text("\n".join(lines))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inputs.manifest_rows.MOST_ROWS", 10)
        assert "over 10 rows" in refused(path)
        patch.undo()
        patch.setattr("pipeline.inputs.manifest_rows.MOST_CELLS", 20)
        assert "20 cells" in refused(path)
    wide = {"concept": "c", "images": "x"} | {f"more{column}": "1" for column in range(999)}
    path.write_text(",".join(wide) + "\n" + ",".join(wide.values()) if suffix == "csv" else json.dumps(wide))
    said = refused(path)
    assert "1,001 columns" in said
    assert len(said) < 1_000


def test_a_message_names_some_of_many_columns(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(",".join(f"column{number}" for number in range(900)) + "\n" + "," * 899 + "x")
    said = refused(tmp_path / "m.csv")
    assert "and 850 more" in said
    assert len(said) < 2_000


def test_lists_of_files_and_captions_have_a_limit(tmp_path: Path) -> None:
    many = [f"{number}.png" for number in range(1_001)]
    rows = [
        {"concept": "a", "images": many},
        {"concept": "b", "images": json.dumps(many)},
        {"concept": "c", "images": "x", "captions": dict.fromkeys(many, "a photo of {}")},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = refused(tmp_path / "m.jsonl")
    assert said.count("lists 1,001 files, at most 1,000 are taken") == 2
    assert "has 1,001 sentences" in said


LONG = "word " * MOST_SENTENCE


def test_a_caption_too_long_to_be_read_by_a_model_is_refused_before_it_is_tokenised(tmp_path: Path) -> None:
    for name, text in (("1", "a photo"), ("2", LONG), ("3", "x" * 100_000_000)):
        (tmp_path / f"{name}.png").write_bytes(png(int(name)))
        (tmp_path / f"{name}.txt").write_text(text)
    extras = Extras(captions=True)
    found = load_images(find_sources(concept(str(tmp_path)), extras=extras), 64, extras=extras)
    assert found.captions == ("a photo",)
    assert all("its caption" in each.reason for each in found.rejected)
    assert len(found.rejected) == 2


def test_prompts_templates_and_protocols_have_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="at most 2,048 are taken for a sentence"):
        sentences_of_file(LONG.encode())
    with pytest.raises(ValueError, match=r"more than 1,000,000 bytes"):
        sentences_of_file(b"a\n" * MOST_TEXT_BYTES)
    with pytest.raises(ValueError, match="at most 2,048 characters"):
        InversionSettings(templates=("{} " + LONG,))
    (tmp_path / "p.toml").write_text(f'[edits]\nobject = ["{{}} {LONG}"]')
    with pytest.raises(ProtocolError, match="at most 2,048 are taken"):
        find_protocol(str(tmp_path / "p.toml"))
    (tmp_path / "p.toml").write_text("#" * 2_000_000)
    with pytest.raises(ProtocolError, match="at most 1,000,000 are read"):
        find_protocol(str(tmp_path / "p.toml"))
    (tmp_path / "prompts.txt").write_text(LONG)
    assert generate(["run", "--prompts", str(tmp_path / "prompts.txt")]) == 2
    assert "at most 2,048 are taken" in capsys.readouterr().err


def test_a_folder_and_a_pattern_with_too_many_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inputs.listing.MOST_FILES", 3)
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"x")

    def said(images: str) -> str:
        with pytest.raises(ImageSetError) as caught:
            find_images(concept(images))
        return str(caught.value)

    assert "holds more than 3 files" in said(str(tmp_path))


@pytest.mark.parametrize("signs", ["\t", " ", ";", "\t;", ", "])
def test_no_first_line_keeps_the_reading_of_a_manifest_busy(signs: str, tmp_path: Path) -> None:
    """Catches a line of a few kilobytes that is divided in every way, for hours."""
    (tmp_path / "m.csv").write_text(f"sep=;{signs * 50_000}x\nconcept;images\nowl;owl/\n")
    with pytest.raises(ManifestError):
        read_manifest(str(tmp_path / "m.csv"))


@pytest.mark.parametrize("pattern", ["**/" + "*a" * 30 + "b.png", "**/a/" * 30 + "b.png", "**/*a" * 30 + "**"])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_no_pattern_keeps_the_search_for_pictures_busy(pattern: str, place: str, tmp_path: Path) -> None:
    """Catches a pattern that is tried in every way in which its signs can stand for parts of a name: years."""
    store = Storage(str(tmp_path) if place == "disk" else f"memory://{tmp_path.name}")
    store.write_bytes("a/" * 30 + "a" * 100 + ".png", b"x")
    assert list(store.matching(pattern)) in ([], ["a/" * 30 + "a" * 100 + ".png"])


def test_links_in_circles_are_read_once(tmp_path: Path) -> None:
    """Eight links to the folder itself are eight to the power of forty names for whoever follows them."""
    (tmp_path / "sub").mkdir()
    for name in ("1.png", "sub/2.png"):
        (tmp_path / name).write_bytes(png(int(name[-5])))
    for link in "abcdefgh":
        (tmp_path / link).symlink_to(tmp_path)
        (tmp_path / "sub" / link).symlink_to(tmp_path)
    assert find_images(concept(f"{tmp_path}/**/*.png")) == (f"{tmp_path}/1.png", f"{tmp_path}/sub/2.png")
    with pytest.raises(ImageSetError, match="matches no picture"):
        find_images(concept(f"{tmp_path}/**/*.tif"))
    for name in (
        "*/" * 40,
        "*/sub/" * 20,
        "[a-z]/" * 40,
    ):  # a folder is visited once at each depth, not once for each way to it
        assert find_images(concept(f"{tmp_path}/{name}*.png"))
        with pytest.raises(ImageSetError, match="matches no picture"):
            find_images(concept(f"{tmp_path}/{name}*.tif"))


def test_folders_that_link_to_each_other_are_followed_to_a_limit(tmp_path: Path) -> None:
    """Each of twelve folders holds links to all others: a path for every order in which they can be visited."""
    for name in "abcdefghijkl":
        (tmp_path / name).mkdir()
        for other in "abcdefghijkl":
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    with pytest.raises(ImageSetError, match="more than 10,000 folders"):
        find_images(concept(f"{tmp_path}/**/*.tif"))


def test_the_limits_stand_in_the_documents() -> None:
    told = (Path(__file__).parents[3] / "docs" / "reference.md").read_text(encoding="utf-8")
    limits = (MOST_ROWS, MOST_CELLS, MOST_COLUMNS, MOST_PROBLEMS, LISTED, MOST_SENTENCE)
    for number in limits:
        assert f"{number:,}" in told
