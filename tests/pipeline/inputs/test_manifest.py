"""manifest.py and manifest_rows.py: what a manifest may say, and every way we know for one to be wrong."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.inputs.manifest import ManifestError, RowDefaults, read_manifest
from pipeline.records import Concept
from pipeline.store.storage import Storage
from tests.conftest import SECRET, Bucket

GOOD = "concept,images\nfirst,first/\n"


def csv_file(folder: Path, content: str | bytes) -> str:
    path = folder / "manifest.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def jsonl_file(folder: Path, *rows: object) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def parquet_file(folder: Path, columns: dict[str, list[Any]]) -> str:
    path = folder / "manifest.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def a_map(rows: list[list[tuple[str, str]] | None]) -> pyarrow.Array:
    return pyarrow.array(rows, pyarrow.map_(pyarrow.string(), pyarrow.string()))


def parquet(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def test_a_row_with_everything_becomes_a_concept(tmp_path: Path) -> None:
    url = csv_file(
        tmp_path,
        "concept,images,initializer,class,kind,placeholder,vectors,group,price\n"
        'my-cat,"[""a.png"", ""s3://other/b.png""]",tabby cat,cat,style,<tom>,3,pets,"1,50"\n',
    )
    manifest = read_manifest(url)
    assert manifest.concepts == (
        Concept("my-cat", (f"{tmp_path}/a.png", "s3://other/b.png"), "<tom>", initializer="tabby cat", noun="cat",
                kind="style", vectors=3, line=2, carried={"group": "pets", "price": "1,50"}),
    )  # fmt: skip
    assert manifest.digest == hashlib.sha256(Path(url).read_bytes()).hexdigest()
    assert manifest.failures == ()


def test_what_a_row_leaves_out_has_its_default(tmp_path: Path) -> None:
    concept, bare = read_manifest(
        csv_file(tmp_path, "concept,images,class\ncat,cat/,animal\nx.1,../x/*.png,\n")
    ).concepts
    assert (concept.placeholder, concept.initializer, concept.noun, concept.kind, concept.vectors) == (
        "<cat>", "animal", "animal", "object", 1,
    )  # fmt: skip
    assert (bare.initializer, bare.noun, bare.images) == (None, None, (f"{tmp_path.parent}/x/*.png",))


def test_the_three_formats_say_the_same(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"concept": "cat", "images": ["a.png", "b.png"], "kind": "style", "vectors": 2, "group": "x"},
        {"concept": "dog", "images": ["c.png"], "kind": None, "vectors": None, "group": "7"},
    ]
    jsonl = read_manifest(jsonl_file(tmp_path, *rows)).concepts
    parquet = read_manifest(parquet_file(tmp_path, {name: [row[name] for row in rows] for name in rows[0]})).concepts
    csv = read_manifest(
        csv_file(tmp_path, 'concept,images,kind,vectors,group\ncat,"[""a.png"",""b.png""]",style,2,x\ndog,c.png,,,7\n')
    ).concepts
    assert jsonl == parquet
    assert [(c.name, c.images, c.kind, c.vectors, c.carried) for c in csv] == [
        (c.name, c.images, c.kind, c.vectors, c.carried) for c in jsonl
    ]


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_a_manifest_in_a_store_finds_its_images_beside_itself(place: str, request: pytest.FixtureRequest) -> None:
    bucket: Bucket = request.getfixturevalue("bucket") if place == "s3" else Bucket("memory://set", "", {})
    Storage(bucket.url, bucket.options).write_bytes("in/manifest.csv", b"concept,images\ncat,../cat/*.png\n")
    (concept,) = read_manifest(f"{bucket.url}/in/manifest.csv", bucket.options).concepts
    assert concept.images == (f"{bucket.url.replace('memory://', 'memory:///')}/cat/*.png",)


def test_other_values_are_carried_as_text(tmp_path: Path) -> None:
    row = {"concept": "cat", "images": "c/", "n": 7, "x": 0.5, "flag": True, "gone": None, "tags": ["a", "é"], "t": "é"}
    (concept,) = read_manifest(jsonl_file(tmp_path, row)).concepts
    assert concept.carried == {"n": "7", "x": "0.5", "flag": "true", "gone": "", "tags": '["a", "é"]', "t": "é"}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfconcept,images\nfirst,first/\n",
        GOOD.encode("utf-16"),
        b"\xfe\xff" + GOOD.encode("utf-16-be"),
        b"concept,images\r\nfirst,first/\r\n",
        b"concept,images\rfirst,first/\r",
        b'concept , images\n\n first , "first/"\n,\n\n',
    ],
    ids=[
        "byte-order mark",
        "UTF-16",
        "big-endian UTF-16",
        "Windows line ends",
        "old Mac line ends",
        "blanks and empty rows",
    ],
)
def test_harmless_habits_of_other_programs_are_taken(tmp_path: Path, content: bytes) -> None:
    (concept,) = read_manifest(csv_file(tmp_path, content)).concepts
    assert (concept.name, concept.images) == ("first", (f"{tmp_path}/first",))


BAD_ROWS: dict[str, tuple[str | bytes, str]] = {  # the second row of a CSV file with all columns -> what is said of it
    "empty name": (",a/,,,,,,", r"line 3, concept: .*is missing; every row needs a name"),
    "blank in a name": ("my cat,a/,,,,,,", r'line 3, concept: "my cat" must be letters a-z and A-Z, digits'),
    "traversal in a name": ("../cat,a/,,,,,,", r'line 3, concept: "\.\./cat" must be letters'),
    "absolute path as a name": ("/etc/cat,a/,,,,,,", r"line 3, concept: .*must be letters"),
    "hidden file as a name": (".cat,a/,,,,,,", r"line 3, concept: .*beginning with a letter or digit"),
    "line end in a name": ('"cat\n",a/,,,,,,\n"c\nd",b/,,,,,,', r'line 5, concept: "c\\nd" must be letters'),
    "name of 129 characters": (f"{'c' * 129},a/,,,,,,", r"line 3, concept: .*\(129 characters\) must be .*at most 128"),
    "letters that look like others": ("cаt,a/,,,,,,", r"line 3, concept: .*must be letters"),
    "the same name twice": ("first,a/,,,,,,", r'line 3, concept: "first" is already in line 2'),
    "names that differ in case": (
        "First,a/,,,,,,",
        r"line 3, concept: \"First\" differs only in case from 'first' in line 2",
    ),
    "the same placeholder": ("cat,a/,,,,<first>,,", r'line 3, placeholder: "<first>" clashes with "<first>" in line 2'),
    "placeholders that differ in case": ("cat,a/,,,,<FIRST>,,", r"line 3, placeholder: .*clashes with .*lower case"),
    "a word among another's vectors": ("cat,a/,,,,<first>_1,,", r"line 3, placeholder: .*clashes with .*word_1"),
    "blank in a placeholder": (
        "cat,a/,,,,my cat,,",
        r'line 3, placeholder: "my cat" must be printable, without spaces',
    ),
    "escape in a placeholder": ("cat,a/,,,,a\x1b[2J,,", r'line 3, placeholder: "a\\x1b\[2J" must be printable'),
    "placeholder of 141 characters": (f"cat,a/,,,,{'p' * 141},,", r"line 3, placeholder: .*at most 140 characters"),
    "decomposed placeholder": ("cat,a/,,,,<cafe\u0301>,,", r"line 3, placeholder: .*composed characters"),
    "unknown kind": ("cat,a/,,,stile,,,", r"line 3, kind: \"stile\" must be 'object', 'style' or 'negative'"),
    "no vectors": ("cat,a/,,,,,0,", r'line 3, vectors: "0" must be a whole number from 1 to 64'),
    "negative vectors": ("cat,a/,,,,,-1,", r"line 3, vectors: .*whole number"),
    "65 vectors": ("cat,a/,,,,,65,", r'line 3, vectors: "65" must be'),
    "half a vector": ("cat,a/,,,,,1.5,", r'line 3, vectors: "1.5" must be'),
    "vectors in words": ("cat,a/,,,,,two,", r'line 3, vectors: "two" must be'),
    "no images": ("cat,,,,,,,", r"line 3, images: .*is missing"),
    "empty list of images": ("cat,[],,,,,,", r"line 3, images: \"\[\]\" is missing or holds an empty name"),
    "broken list of images": ('cat,"[""a.png""",,,,,,', r"line 3, images: .*is no JSON list"),
    "object for images": ('cat,"{""a"": 1}",,,,,,', r"line 3, images: .*must be a folder, a glob, or a list"),
    "number among the images": ('cat,"[""a"", 1.5]",,,,,,', r'line 3, images: "1.5" must be text'),
    "unknown protocol": ("cat,foo://x/,,,,,,", r"line 3, images: .*nothing is known of foo://"),
    "chained protocol": ("cat,simplecache::s3://x/,,,,,,", r"line 3, images: .*chained URLs"),
    "initializer of two lines": ('cat,a/,"big\ncat",,,,,', r"line 3, initializer: .*must be one line"),
    "line separator in a class": ("cat,a/,,big\u2028cat,,,,", r'line 3, class: "big\\u2028cat" must be one line'),
    "escape in a class": ("cat,a/,,big\x1bcat,,,,", r"line 3, class: .*without control characters"),
    "accented name": ("köln,a/,,,,,,", r'line 3, concept: "köln" must be letters a-z and A-Z'),
    "class of 201 characters": (f"cat,a/,,{'c' * 201},,,,", r"line 3, class: .*at most 200"),
    "NUL": ("cat,a/,,,,,,x\0y", r'line 3, group: "x\\x00y" holds a NUL'),
    "Latin-1": (b"cat,a/,,caf\xe9,,,,", r'line 3, class: "caf\\xe9" the byte 0xE9 is not UTF-8 \(it may be Latin-1'),
    "a cell of 10 MB": ("cat,a/,,,,,," + "x" * 10_000_000, r"line 3, group: .*has 10,000,000 characters"),
    "too few cells": ("cat,a/", r'line 3: "cat,a/" has 2 cells where the header has 8; some are missing'),
    "too many cells": ("cat,a/,,,,,,,,x", r"line 3: .*has 10 cells where the header has 8; put cells with commas in"),
    "a quotation mark inside": ('cat,"a"b/,,,,,,', r"line 3: quotation marks do not match"),
    "a quotation mark left open": ('cat,"a/,,,,,,\ndog,d/,,,,,,', r"line 3: quotation marks do not match"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_with_line_column_value_and_remedy(kind: str, tmp_path: Path) -> None:
    row, said = BAD_ROWS[kind]
    header = b"concept,images,initializer,class,kind,placeholder,vectors,group\nfirst,first/,,,,,2,\n"
    url = csv_file(tmp_path, header + (row.encode() if isinstance(row, str) else row) + b"\n")
    with pytest.raises(ManifestError, match=said) as caught:
        read_manifest(url)
    assert str(caught.value).startswith(f"{url}: 1 bad row, ")
    assert len(str(caught.value)) < 1000
    manifest = read_manifest(url, skip_invalid=True)
    assert manifest.concepts[0].name == "first"
    (failure,) = manifest.failures
    assert failure.stage == "manifest"
    assert failure.concept not in {concept.name for concept in manifest.concepts}


BAD_FILES: dict[str, tuple[str, bytes, str]] = {  # the file's name and bytes -> what is said of it
    "empty": ("m.csv", b"", "is empty"),
    "blank": ("m.jsonl", b" \n\n", "is empty"),
    "only a header": ("m.csv", b"concept,images\n", "has no rows: only a header"),
    "only a byte-order mark and a header": ("m.csv", b"\xef\xbb\xbfconcept,images", "has no rows"),
    "no column for the images": (
        "m.csv",
        b"concept,group\ncat,x\n",
        "the column 'images' is missing. Columns here: concept, group; --column images=NAME reads one of another name",
    ),
    "columns in capitals": ("m.csv", b"Concept,Images\ncat,a/\n", '\'concept\' is missing.*by "Concept".*by "Images"'),
    "a near miss": ("m.csv", b"concepts,imgs\ncat,a/\n", "'concept' is missing.*by \"concepts\""),
    "an optional column misspelt": (
        "m.csv",
        GOOD.replace("\n", ",initialiser\n", 1).replace("/", "/,x").encode(),
        "\"initialiser\" is nearly 'initializer'",
    ),
    "a column without a name": ("m.csv", b",concept,images\n0,cat,a/\n", r"line 1: column 1 has no name \(pandas"),
    "two columns of one name": ("m.csv", b"concept,images,images\ncat,a/,b/\n", 'two columns are called "images"'),
    "a header in Latin-1": ("m.csv", b"concept,images,pr\xe9\ncat,a/,b\n", r'"pr\\xe9" cannot be a column'),
    "a quotation mark open in the header": ("m.csv", b'concept,"images\ncat,a/\n', "line 1: the header cannot be read"),
    "semicolons, of another language": (
        "m.csv",
        b"Konzept;Bilder\ncat;a/\n",
        "'concept' is missing.*Columns here: Bilder, Konzept; --column concept=NAME",
    ),
    "a separator of two signs": ("m.csv", b"sep=;;x\n" + GOOD.encode(), 'line 1: "sep=;;x" must name one sign'),
    "a separator that is a letter": ("m.csv", b"sep=c\n" + GOOD.encode(), 'line 1: "sep=c" must name one sign'),
    "a value without a column": (
        "m.csv",
        b"sep=,\nconcept,,images\ncat,5,a/\n",
        r'line 2: column 2 has no name \(pandas.*\), but line 3 has "5" there',
    ),
    "a name twice in a map": (
        "m.parquet",
        parquet({"concept": ["a"], "images": ["a/"], "captions": a_map([[("1.png", "x"), ("1.png", "y")]])}),
        "duplicate key was '1.png'",
    ),
    "half of a UTF-16 file": ("m.csv", GOOD.encode("utf-16")[:-1], "line 2: the byte 0x0A is not UTF-16; save"),
    "UTF-16 without a mark": ("m.csv", GOOD.encode("utf-16-le"), "line 1: the byte 0x00 at position 1 shows"),
    "a workbook": ("m.xlsx", b"PK\x03\x04", r"the ending '.xlsx' is not one of .csv, .jsonl"),
    "no ending": ("manifest", GOOD.encode(), "the ending '' is not one of"),
    "Parquet called CSV": ("m.csv", b"PAR1\0\0PAR1", "is not what its ending .csv says"),
    "CSV called Parquet": ("m.parquet", GOOD.encode(), "is not what its ending .parquet says"),
    "broken Parquet": ("m.parquet", b"PAR1" + b"\0" * 40, "is not a readable Parquet file"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("skip_invalid", [False, True])
def test_a_file_of_which_nothing_can_be_used_is_refused(kind: str, skip_invalid: bool, tmp_path: Path) -> None:
    name, content, said = BAD_FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=said) as caught:
        read_manifest(str(tmp_path / name), skip_invalid=skip_invalid)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"concept": "cat", ', r"line 2: .*is not a JSON object"),
        ("[" * 100_000, r"line 2: .*is nested too deeply"),
        ("5", r"line 2: .*is not an object such as"),
        ('{"concept": "a", "concept": "b", "images": "c/"}', r"line 2: .*a name occurs twice"),
        ('{"concept": "cat", "images": "c/", "": 1}', r"line 2: column 3 has no name"),
        ({"concept": "cat"}, r"line 2, images: .*is missing"),
        ({"concept": "cat", "images": 5.5}, r'line 2, images: "5.5" must be text'),
        ({"concept": "cat", "images": {"a": 1}}, r"line 2, images: .*must be text"),
        ({"concept": "cat", "images": []}, r"line 2, images: .*is missing or holds an empty name"),
        ({"concept": "cat", "images": ["a.png", ""]}, r"line 2, images: .*holds an empty name"),
        ({"concept": "cat", "images": ["a\0b.png"]}, r"line 2, images: .*a NUL character"),
        ('{"concept": "cat", "images": ["\\ud800.png"]}', r"line 2, images: .*not UTF-8"),
        ({"concept": True, "images": "c/"}, r'line 2, concept: "true" must be text'),
        ({"concept": "cat", "images": "c/", "vectors": True}, r'line 2, vectors: "true" must be'),
        ({"concept": "cat", "images": "c/", "vectors": 2.5}, r'line 2, vectors: "2.5" must be'),
        ('{"concept": "cat", "images": "c/", "class": "\\ud800"}', r"line 2, class: .*not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_json_line_is_named(row: object, said: str, tmp_path: Path) -> None:
    url = jsonl_file(tmp_path, {"concept": "first", "images": "first/"}, row)
    with pytest.raises(ManifestError, match=said):
        read_manifest(url)
    assert len(read_manifest(url, skip_invalid=True).failures) == 1


def test_a_parquet_file_that_ends_the_process_that_reads_it_is_refused(tmp_path: Path) -> None:
    """Catches a job that pyarrow ends by SIGABRT: here a column says that it has no gaps, and its statistics count some."""
    whole = parquet({"concept": ["a"], "images": ["a/"]})
    optional = b"\x25\x02\x18\x07concept"
    assert whole.count(optional) == 1
    path = tmp_path / "manifest.parquet"
    path.write_bytes(whole.replace(optional, b"\x25\x00" + optional[2:]))
    with pytest.raises(ManifestError, match=r"not a readable Parquet file \(.*histogram size mismatch"):
        read_manifest(str(path))


def test_a_parquet_file_from_pandas_holds_floats_and_gaps(tmp_path: Path) -> None:
    url = parquet_file(
        tmp_path,
        {"concept": ["a", "b"], "images": ["a/", "b/"], "vectors": [2.0, float("nan")], "class": [None, "cat"]},
    )
    assert [(concept.vectors, concept.noun) for concept in read_manifest(url).concepts] == [(2, None), (1, "cat")]


@pytest.mark.parametrize("sign", ["\u00a0", "\u202f", "\u200c", "\u200d", "\U0001f468\u200d\U0001f469"])
def test_spaces_and_joiners_of_every_script_are_text(sign: str, tmp_path: Path) -> None:
    """Catches Persian spelling, joined emoji and the no-break spaces of web pages refused as control characters."""
    text, name = f"a{sign}b", f"Screenshot{sign}PM.png"
    row = {
        "concept": "cat", "images": [name], "class": text, "initializer": text, "word_file": f"{name}.pt",
        "captions": {name: f"{{}} {text}"}, f"of{sign}us": text,
    }  # fmt: skip
    (concept,) = read_manifest(jsonl_file(tmp_path, row)).concepts
    assert concept.images == (f"{tmp_path}/{name}",)
    assert (concept.noun, concept.initializer, concept.word_file) == (text, text, f"{tmp_path}/{name}.pt")
    assert (concept.captions, concept.carried) == ({name: f"{{}} {text}"}, {f"of{sign}us": text})
    assert RowDefaults(initializer=text).initializer == text


def test_all_bad_rows_stand_in_one_message_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = "".join(f"bad name {n},a/,0\n" if n % 2 else f"good{n},a/,1\n" for n in range(400))
    with pytest.raises(ManifestError) as caught:
        read_manifest(csv_file(tmp_path, f"concept,images,vectors\n{rows}"))
    head, *said = str(caught.value).splitlines()
    assert head.endswith("200 bad rows, 200 good")
    assert [line.split(":")[0].strip() for line in said[:3]] == [
        "line 3, concept",
        "line 3, vectors",
        "line 5, concept",
    ]
    assert len(said) == len(caught.value.problems) == 400


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (lambda folder: str(folder / "gone.csv"), "there is no such file"),
        (str, "it is a folder"),
        (lambda _: "foo://bucket/m.csv", "nothing is known of foo://"),
        (lambda _: "", "must not be empty"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(url: Callable[[Path], str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=said):
        read_manifest(url(tmp_path))


def test_no_credential_in_the_url_reaches_the_message() -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(f"memory://user:{SECRET}@set/gone.csv")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["con", "NUL", "Aux.v2", "com1", "LPT9.x.y", "prn"])
def test_a_name_that_windows_keeps_for_itself_is_refused(name: str, tmp_path: Path) -> None:
    """Catches words/nul.safetensors, which a colleague's machine cannot even unpack."""
    (tmp_path / "m.csv").write_text(f"concept,images\n{name},x\n")
    with pytest.raises(ManifestError, match="cannot name a file on Windows"):
        read_manifest(str(tmp_path / "m.csv"))
    (tmp_path / "m.csv").write_text("concept,images\nconsole,x\ncom,x\nlpt10,x\nmy-con,x\n")
    assert len(read_manifest(str(tmp_path / "m.csv")).concepts) == 4
