"""Manifests as spreadsheets, pandas and Arrow save them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas
import pyarrow
import pytest

from pipeline.inputs.manifest import ManifestError, read_manifest
from tests.pipeline.inputs.test_manifest import a_map, csv_file, jsonl_file, parquet

PANDAS = pandas.DataFrame(
    {
        "concept": ["a", "b"],
        "images": ["a/", "b/"],
        "vectors": [2.0, None],
        "class": ["cat", None],
        "kind": [None, None],
    }
)
GAPS: dict[str, tuple[str, Callable[[Path], object]]] = {  # the file's name, and how it is written
    "Parquet": ("m.parquet", PANDAS.to_parquet),
    "CSV": ("m.csv", lambda path: PANDAS.to_csv(path, index=False)),
    "CSV that says NaN": ("m.csv", lambda path: PANDAS.to_csv(path, index=False, na_rep="NaN")),
    "CSV of whole numbers": (
        "m.csv",
        lambda path: PANDAS.astype({"vectors": "Int64"}).to_csv(path, index=False, na_rep="<NA>"),
    ),
    "CSV of another language": ("m.csv", lambda path: PANDAS.to_csv(path, index=False, sep=";", decimal=",")),
    "JSONL": ("m.jsonl", lambda path: PANDAS.to_json(path, orient="records", lines=True)),
    "JSONL that says NaN": (
        "m.jsonl",
        lambda path: path.write_text("\n".join(json.dumps(row) for row in PANDAS.to_dict("records"))),
    ),
}


@pytest.mark.parametrize("written", GAPS)
def test_the_gaps_of_pandas_are_gaps_in_every_format(written: str, tmp_path: Path) -> None:
    """Catches one table that is read as Parquet and refused as CSV, or a class called nan."""
    name, write = GAPS[written]
    write(tmp_path / name)
    first, second = read_manifest(str(tmp_path / name)).concepts
    assert (first.vectors, first.noun, first.kind) == (2, "cat", "object")
    assert (second.vectors, second.noun, second.kind) == (1, None, "object")


def test_numbers_are_text_where_text_is_wanted(tmp_path: Path) -> None:
    row = {"concept": 101.0, "images": "a/", "class": 7.0, "vectors": 3.0, "placeholder": float("nan")}
    (concept,) = read_manifest(jsonl_file(tmp_path, row)).concepts
    assert (concept.name, concept.noun, concept.vectors, concept.placeholder) == ("101", "7", 3, "<101>")


def test_captions_are_read_from_maps_however_they_are_written(tmp_path: Path) -> None:
    captions = a_map([[("1.png", "x {}")], None])
    columns = {"concept": ["a", "b"], "images": ["a/", "b/"], "captions": captions, "tags": captions}
    (tmp_path / "m.parquet").write_bytes(parquet(columns))
    first, second = read_manifest(str(tmp_path / "m.parquet")).concepts
    assert (first.captions, second.captions) == ({"1.png": "x {}"}, {})
    assert first.carried == {"tags": '{"1.png": "x {}"}'}
    pyarrow.table(columns).to_pandas().to_json(tmp_path / "m.jsonl", orient="records", lines=True)
    first, second = read_manifest(str(tmp_path / "m.jsonl")).concepts
    assert (first.captions, second.captions) == ({"1.png": "x {}"}, {})


@pytest.mark.parametrize(
    "content",
    [
        "sep=,\r\nconcept,images,class\r\na,a/,cat\r\n",
        "sep=;\r\nconcept;images;class\r\na;a/;cat\r\n",
        "SEP=|\nconcept|images|class\na|a/|cat\n",
        "sep=\t\nconcept\timages\tclass\na\ta/\tcat\n",
        '"sep=;",,\nconcept;images;class\na;a/;cat\n',
        "\ufeffsep=;\nconcept;images;class\na;a/;cat\n",
        "concept;images;class\na;a/;cat\n",
        "concept\timages\tclass\na\ta/\tcat\n",
        '"concept";"images";"class"\n"a";"a/";"cat"\n',
        '\ufeff"\ufeffconcept","images","class"\n"a","a/","cat"\n',
        "concept,images,class,,\r\na,a/,cat,,\r\n,,,,\r\n",
        "concept;images;class;;\r\na;a/;cat;;\r\n;;;;\r\n",
        "concept,images,class\na,a/,cat,,,\n",
        "concept,,images,class\na, ,a/,cat\n",
        ",,\nconcept,images,class\na,a/,cat\n",
    ],
)
def test_a_file_as_a_spreadsheet_saves_it_is_read(content: str, tmp_path: Path) -> None:
    """Catches columns of another sign, a line sep=, and empty columns, refused for something else or carried along."""
    for encoding in ("utf-8", "utf-16"):
        (concept,) = read_manifest(csv_file(tmp_path, content.encode(encoding))).concepts
        assert (concept.name, concept.images, concept.noun, concept.carried) == ("a", (f"{tmp_path}/a",), "cat", {})


def test_a_row_is_named_by_its_line_below_a_sep_line_and_with_its_own_separator(tmp_path: Path) -> None:
    url = csv_file(tmp_path, 'sep=;\nconcept;images;class\na;a/;"x;y, z"\nb;b/;c;d\n')
    with pytest.raises(
        ManifestError, match=r'line 4: "b;b/;c;d" has 4 cells .* put cells with semicolons in quotation'
    ):
        read_manifest(url)
    assert read_manifest(url, skip_invalid=True).concepts[0].noun == "x;y, z"


def test_a_file_of_tabs_may_be_called_tsv(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    path.write_text("concept\timages\tclass\na\ta/\tx, y\n", encoding="utf-8")
    assert read_manifest(str(path)).concepts[0].noun == "x, y"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_columns_may_have_other_names(form: str, tmp_path: Path) -> None:
    rows = {"SKU": ["a"], "Bilder": ["a/"], "group": ["cat"], "class": ["toys"]}
    path = tmp_path / f"m.{form}"
    frame = pandas.DataFrame(rows)
    if form == "csv":
        frame.to_csv(path, index=False, sep=";")
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    called = {"concept": "SKU", "images": "Bilder", "class": "group", "subject": "class"}
    (concept,) = read_manifest(str(path), columns=called).concepts
    assert (concept.name, concept.images, concept.noun) == ("a", (f"{tmp_path}/a",), "cat")
    assert concept.carried == {"subject": "toys"}
    needed = {"concept": "SKU", "images": "Bilder"}
    for wrong, said in (
        (needed | {"kind": "Art"}, "kind=Art: there is no column 'Art'. Columns here: Bilder, SKU, class, group"),
        (needed | {"class": "group"}, "class=group: there is a column 'class' as well"),
        (needed | {"klass": "group"}, "--column klass: means nothing; the columns are concept, images"),
    ):
        with pytest.raises(ManifestError, match=re.escape(said)):
            read_manifest(str(path), columns=wrong)
