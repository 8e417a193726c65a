"""Words whose rows are gone, on a real disk: out of every table, kept, and back as they were; whoever dies in between."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

import pipeline.store.catalogue.retired as retiring
from pipeline.records import Concept
from pipeline.store.catalogue.listed import ManifestList, forget_others, listed, read_lists, write_list
from pipeline.store.catalogue.retired import bring_back, forget_old, retire, retired_names
from pipeline.store.parts import create_layout, part_path, write_table
from pipeline.store.publish import publish
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.pipeline.store.test_publish import TABLES, attempts, commit, each_row_once, fingerprint_of, rows

TONIGHT = date(2026, 1, 31)
NAMES = ["ant", "bee", "cow"]
DONE = {name: fingerprint_of(name) for name in NAMES}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder(Storage(str(tmp_path / "run")))
    parts = create_layout(made, len(NAMES))
    for name in NAMES:
        commit(made, name)
    publish(made, DONE, parts)
    for table in ("scores", "features"):
        write_table(made, part_path(table, 0, 1), pa.table({"concept": NAMES, "value": [1.0, 2.0, 3.0]}))
    return made


def test_a_word_that_no_row_asks_for_leaves_every_table_and_returns_bit_for_bit(run: RunFolder) -> None:
    """Catches a deleted row that is drawn and scored for ever, and a returning one that is learned again."""
    parts, before = create_layout(run, 3), {table: rows(run, table) for table in TABLES}
    files = {path: run.storage.read_bytes(path) for path in (run.word_path("bee"), run.grid_path("bee"))}
    steps: list[tuple[int, int]] = []
    assert retire(run, {"ant", "cow"}, parts, TONIGHT, lambda *step: steps.append(step)) == ("bee",)
    assert steps == [(1, 1)]
    each_row_once(run, ["ant", "cow"])
    for table in ("scores", "features"):
        assert rows(run, table)["concept"].tolist() == ["ant", "cow"]
    assert {name for name, _ in run.committed()} == {"ant", "cow"}
    assert not any(run.storage.exists(path) for path in files)
    assert retired_names(run, {"ant", "cow"}) == {"bee"}
    assert bring_back(run, DONE) == ("bee",)
    assert publish(run, DONE, parts) == ()
    assert {path: run.storage.read_bytes(path) for path in files} == files
    for table in TABLES:
        assert rows(run, table).equals(before[table])
    assert not attempts(run)
    assert not run.storage.names("_retired")


def test_a_word_of_other_inputs_does_not_return(run: RunFolder) -> None:
    retire(run, {"ant", "cow"}, create_layout(run, 3), TONIGHT)
    assert bring_back(run, {"bee": fingerprint_of("bee", 1)}) == ()


@pytest.mark.parametrize("step", ["_take_out", "_keep_files"])
def test_a_driver_that_dies_while_it_retires_a_word_loses_nothing(
    run: RunFolder, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches rows that are taken out before they are kept. The row may have returned before the next run."""
    parts, original = create_layout(run, 3), getattr(retiring, step)

    def dies(*arguments: object) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retiring, step, dies)
        with pytest.raises(KeyboardInterrupt):
            retire(run, {"ant", "cow"}, parts, TONIGHT)
    bring_back(run, DONE)
    assert publish(run, DONE, parts) == ()
    each_row_once(run, NAMES)
    retire(run, {"ant", "cow"}, parts, TONIGHT)
    each_row_once(run, ["ant", "cow"])


def test_a_word_that_was_committed_and_never_published_retires_with_all_it_has(run: RunFolder) -> None:
    public = commit(run, "dog", dies=True)
    parts, done = create_layout(run, 3), DONE | {"dog": fingerprint_of("dog")}
    assert retire(run, NAMES, parts, TONIGHT) == ("dog",)
    assert not attempts(run)
    assert bring_back(run, done) == ("dog",)
    assert publish(run, done, parts) == ()
    assert run.storage.read_bytes(run.word_path("dog")) == public["word.safetensors"]


def test_a_retired_word_is_removed_after_its_days(run: RunFolder) -> None:
    retire(run, {"ant", "cow"}, create_layout(run, 3), TONIGHT)
    assert forget_old(run, date(2026, 3, 1), 30) == ()
    assert forget_old(run, date(2026, 3, 2), 30) == ("bee",)
    assert not run.storage.names("_retired")


def test_carried_columns_and_the_class_are_refreshed_without_touching_the_word(run: RunFolder) -> None:
    """Catches a column that stays as it was when the word was learned."""
    before = rows(run, "embeddings")
    ant = Concept("ant", (), "<ant>", noun="insect", carried={"shop": "south"})
    publish(run, DONE, create_layout(run, 3), {"ant": ant})
    now = rows(run, "embeddings")
    mine = now["concept"] == "ant"
    assert set(now["class"][mine]) == {"insect"}
    assert [dict(each) for each in now["carried"][mine]] == [{"shop": "south"}] * 2
    assert now[~mine].equals(before[~mine])
    same = [column for column in now.columns if column not in ("class", "carried")]
    assert now[same].equals(before[same])


def test_a_concept_is_listed_while_any_manifest_lists_it(run: RunFolder) -> None:
    """Catches a run of some rows, from a file of its own, that takes the others' words away."""
    one = ManifestList("all.csv", ("ant", "bee"), types={"price": "integer"})
    write_list(run, one)
    write_list(run, ManifestList("some.csv", ("cow",)))
    assert listed(read_lists(run)) == {"ant", "bee", "cow"}
    write_list(run, replace(one, concepts=("ant",)))
    assert listed(read_lists(run)) == {"ant", "cow"}


@pytest.mark.parametrize(
    "data", [b"", b'{"manifest": "all.csv"}', b'{"manifest": "a", "concepts": 3, "types": {}}', b"["]
)
def test_a_damaged_list_is_told_by_name_and_retires_nothing(
    run: RunFolder, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a torn list that ends every run, and one whose words retire as nobody lists them."""
    write_list(run, ManifestList("some.csv", ("ant",)))
    run.storage.write_bytes("_manifests/0123.json", data)
    lists = read_lists(run)
    assert "_manifests/0123.json is damaged" in caplog.text
    assert listed(lists) >= {name for name, _ in run.committed()}
    assert read_lists(run, but="some.csv") == lists[:1] == (ManifestList("", tuple(sorted(listed(lists[:1])))),)
    assert retire(run, listed(lists), create_layout(run, 3), date(2026, 1, 31)) == ()


def test_a_damaged_list_goes_with_the_other_manifests(run: RunFolder) -> None:
    """Catches --only-this-manifest that retires nothing, as a torn list of another manifest stays."""
    write_list(run, ManifestList("some.csv", ("ant",)))
    run.storage.write_bytes("_manifests/0123.json", b"")
    forget_others(run, "some.csv")
    assert read_lists(run) == (ManifestList("some.csv", ("ant",)),)


@pytest.mark.parametrize("odd", ['""', "{}", "null", "[1]", '[["owl"]]'])
def test_a_list_whose_names_are_none_retires_nothing(run: RunFolder, odd: str) -> None:
    """Catches an empty text that is taken for a list without names."""
    run.storage.write_bytes("_manifests/0123.json", f'{{"manifest": "m", "concepts": {odd}, "types": {{}}}}'.encode())
    assert read_lists(run)[0].manifest == ""
