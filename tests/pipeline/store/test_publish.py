"""publish.py on a real disk: whoever publishes, however often and whatever died in between, a concept has its rows once."""

import functools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.store.publish as publishing
from pipeline.records import Concept, Failure, ImageSet, Sample, Word
from pipeline.settings import InversionSettings
from pipeline.store.fingerprint import fingerprint
from pipeline.store.lease import LeaseLostError, lease
from pipeline.store.parts import create_layout, part_path, read_rows, read_table
from pipeline.store.publish import publish, publish_failures
from pipeline.store.run_folder import ATTEMPTS, Marker, RunFolder
from pipeline.store.run_tables import embedding_rows, sample_rows, samples_of
from pipeline.store.storage import Storage

CONCEPTS = [f"concept-{number:02d}" for number in range(40)]
ENCODERS = ("text_encoder", "text_encoder_2")
TABLES = ("embeddings", "samples")
SAMPLES_EACH = 2


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Storage(str(tmp_path / "run")))


def fingerprint_of(name: str, seed: int = 0) -> str:
    return fingerprint(Concept(name, (), f"<{name}>"), [], "model", "float32", InversionSettings(seed=seed))


def write_attempt(run: RunFolder, name: str, seed: int = 0, attempt: str = "aaa") -> dict[str, bytes]:
    """All that a worker writes before its commit; returns its word and grid."""
    concept = Concept(name, (), f"<{name}>", noun="thing", carried={"shop": "north"})
    vectors = {encoder: np.full((2, 3), seed + 0.5, np.float32) for encoder in ENCODERS}
    word = Word(name, concept.placeholder, vectors, vectors, "thing", 300, "steps", 5e-3, 0.1, 1.5)
    images = ImageSet(np.zeros((1, 8, 8, 3), np.uint8), ("file:///a.png",), ("digest",))
    samples = [
        Sample(name, "reconstruction", f"a <{name}>", "a", index, seed, b"png %d" % index)
        for index in range(SAMPLES_EACH)
    ]
    public = {file: f"{file} of {name} {seed} {attempt}".encode() for file in ("word.safetensors", "grid.png")}
    tables = {
        "embedding.parquet": embedding_rows(concept, fingerprint_of(name, seed), word, images),
        "samples.parquet": sample_rows(fingerprint_of(name, seed), samples),
    }
    for file, table in tables.items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        run.storage.write_bytes(
            run.attempt_path(name, fingerprint_of(name, seed), attempt, file), bytes(sink.getvalue())
        )
    for file, data in public.items():
        run.storage.write_bytes(run.attempt_path(name, fingerprint_of(name, seed), attempt, file), data)
    return public


def commit(run: RunFolder, name: str, seed: int = 0, attempt: str = "aaa", *, dies: bool = False) -> dict[str, bytes]:
    """What a worker does with a word: it may die right after the marker, before the public files."""
    public = write_attempt(run, name, seed, attempt)
    assert run.commit(Marker(name, fingerprint_of(name, seed), attempt, 300, 1.5))
    if not dies:
        for path, file in ((run.word_path(name), "word.safetensors"), (run.grid_path(name), "grid.png")):
            run.storage.write_bytes(path, public[file])
            run.storage.delete(run.attempt_path(name, fingerprint_of(name, seed), attempt, file))
    return public


def expected(seed: int = 0) -> dict[str, str]:
    return {name: fingerprint_of(name, seed) for name in CONCEPTS}


def rows(run: RunFolder, table: str) -> pd.DataFrame:
    """As a stranger reads them, in the order of the parts."""
    parts = sorted((Path(run.storage.url) / table).glob("*.parquet"))
    return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)


def each_row_once(run: RunFolder, names: list[str], seed: int = 0) -> None:
    embeddings, samples = (rows(run, table) for table in TABLES)
    keys = list(embeddings[["concept", "fingerprint", "text_encoder"]].itertuples(index=False, name=None))
    assert sorted(keys) == sorted((name, fingerprint_of(name, seed), encoder) for name in names for encoder in ENCODERS)
    drawn = list(samples[["concept", "fingerprint", "index"]].itertuples(index=False, name=None))
    assert sorted(drawn) == sorted((name, fingerprint_of(name, seed), index) for name in names for index in range(2))


def attempts(run: RunFolder) -> list[str]:
    return run.storage.names(ATTEMPTS)


def on_disk(run: RunFolder) -> dict[str, bytes]:
    """All but who published it."""
    return {path: run.storage.read_bytes(path) for path in run.storage.find() if not path.startswith("_leases/")}


def test_every_committed_concept_has_one_row_an_encoder_however_often_it_is_published(run: RunFolder) -> None:
    """Catches rows doubled by a second call, and rows lost by it."""
    parts = create_layout(run, len(CONCEPTS))
    for name in CONCEPTS[:25]:
        commit(run, name)
    assert publish(run, expected(), parts) == ()
    first = on_disk(run)
    each_row_once(run, CONCEPTS[:25])
    assert attempts(run) == []
    publish(run, expected(), parts)
    assert on_disk(run) == first
    for name in CONCEPTS[25:]:
        commit(run, name)
    publish(run, expected(), parts)
    each_row_once(run, CONCEPTS)


def test_what_is_not_committed_has_no_row_and_keeps_its_attempt(run: RunFolder) -> None:
    """Catches the files of a worker that is still writing, perhaps another driver's, deleted under its hands."""
    commit(run, "concept-00")
    write_attempt(run, "concept-01")
    before = [file for file in attempts(run) if file.startswith("concept-01")]
    publish(run, expected(), create_layout(run, 40))
    each_row_once(run, ["concept-00"])
    assert attempts(run) == before
    assert len(before) == 4
    assert not run.storage.exists(run.word_path("concept-01"))


def test_losing_attempts_at_a_committed_word_are_tidied_away(run: RunFolder) -> None:
    won = commit(run, "concept-00", attempt="won")
    write_attempt(run, "concept-00", attempt="lost")
    publish(run, expected(), create_layout(run, 40))
    assert attempts(run) == []
    assert run.storage.read_bytes(run.word_path("concept-00")) == won["word.safetensors"]


def test_what_a_worker_left_undone_after_its_commit_is_done_for_it(run: RunFolder) -> None:
    """Catches a concept that counts as done, has its rows, and whose word is nowhere to be downloaded."""
    public = commit(run, "concept-00", dies=True)
    publish(run, expected(), create_layout(run, 40))
    assert run.storage.read_bytes("words/concept-00.safetensors") == public["word.safetensors"]
    assert run.storage.read_bytes("grids/concept-00.png") == public["grid.png"]
    each_row_once(run, ["concept-00"])
    assert attempts(run) == []


def test_a_changed_fingerprint_replaces_its_rows_and_no_others(run: RunFolder) -> None:
    """Catches an edited image set whose old word stays in the tables beside the new one, or in its place."""
    parts = create_layout(run, 40)
    for name in CONCEPTS:
        commit(run, name)
    publish(run, expected(), parts)
    now = expected() | {"concept-07": fingerprint_of("concept-07", seed=1)}
    publish(run, now, parts)
    each_row_once(run, CONCEPTS)  # the new word is not yet learned
    commit(run, "concept-07", seed=1, attempt="bbb")
    publish(run, now, parts)
    embeddings, samples = (rows(run, table) for table in TABLES)
    for table in (embeddings, samples):
        assert dict(zip(table["concept"], table["fingerprint"], strict=True)) == now
    assert len(embeddings) == len(CONCEPTS) * len(ENCODERS)
    assert set(samples.loc[samples["concept"] == "concept-07", "seed"]) == {1}


@pytest.mark.parametrize("rounds", [1, 2])
def test_going_back_to_earlier_inputs_learns_the_word_again(rounds: int, run: RunFolder) -> None:
    """Catches a setting changed and changed back: nothing to do, said the marker, and the folder held the other word."""
    parts = create_layout(run, 40)
    for attempt in range(2 * rounds + 1):
        seed = attempt % 2
        commit(run, "concept-00", seed, attempt=str(attempt))
        assert publish(run, expected(seed), parts) == ()
        each_row_once(run, ["concept-00"], seed)
        assert len(run.committed()) == 1


def test_rows_that_nobody_has_any_more_make_a_concept_undone(run: RunFolder) -> None:
    """Catches a job that waits for ever for a row, and a word that counts as done while no table knows it."""
    for name in CONCEPTS[:2]:
        commit(run, name)
    run.storage.delete(run.attempt_path("concept-00", fingerprint_of("concept-00"), "aaa", "samples.parquet"))
    parts = create_layout(run, 40)
    assert publish(run, expected(), parts) == ("concept-00",)
    assert {name for name, _ in run.committed()} == {"concept-01"}
    commit(run, "concept-00", attempt="again")
    assert publish(run, expected(), parts) == ()
    each_row_once(run, CONCEPTS[:2])


def test_strange_files_among_the_attempts_are_passed_over(run: RunFolder) -> None:
    commit(run, "concept-00")
    run.storage.write_bytes(f"{ATTEMPTS}/.DS_Store", b"")
    publish(run, expected(), create_layout(run, 40))
    each_row_once(run, ["concept-00"])
    assert attempts(run) == [".DS_Store"]


def test_publishers_at_once_who_know_of_different_words_lose_none_of_them(run: RunFolder) -> None:
    """Catches a driver that replaces a part by what it read before another one added to it: rows that are gone for good."""
    parts = create_layout(run, 40)
    for name in CONCEPTS:
        commit(run, name, dies=name.endswith("3"))
    start = threading.Barrier(4)

    def publish_some(number: int) -> tuple[str, ...]:
        start.wait()
        return publish(run, {name: fingerprint_of(name) for name in CONCEPTS[number::4]}, parts)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(publish_some, range(4))) == [()] * 4
    each_row_once(run, CONCEPTS)
    assert attempts(run) == []
    assert len(run.storage.names("words")) == len(run.storage.names("grids")) == len(CONCEPTS)


def test_publishers_of_other_settings_end(run: RunFolder) -> None:
    """Catches a driver that waits for ever for rows which another one has replaced by its own."""
    parts = create_layout(run, 40)
    for seed, name in ((0, "concept-00"), (1, "concept-00"), (0, "concept-01")):
        commit(run, name, seed, attempt=str(seed))
    with ThreadPoolExecutor(2) as pool:
        wanted = (expected(), {"concept-00": fingerprint_of("concept-00", 1)})
        list(pool.map(lambda one: publish(run, one, parts), wanted))
    found = rows(run, "embeddings")
    assert sorted(found["concept"]) == [name for name in CONCEPTS[:2] for _ in ENCODERS]


def test_a_publisher_that_stood_still_for_too_long_writes_nothing_more(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a machine that wakes from a pause and puts yesterday's part over today's."""
    parts = create_layout(run, 40)
    commit(run, "concept-00")
    stands, goes_on = threading.Event(), threading.Event()
    original = read_rows

    def read(*arguments: Any) -> Any:
        found = original(*arguments)
        if threading.current_thread().name.startswith("slow") and not stands.is_set():
            stands.set()
            assert goes_on.wait(60)
        return found

    monkeypatch.setattr(publishing, "read_rows", read)
    monkeypatch.setattr(publishing, "lease", functools.partial(lease, seconds=0.5))
    monkeypatch.setattr(
        publishing, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1, threading.current_thread().name)
    )
    with ThreadPoolExecutor(1, thread_name_prefix="slow") as slow:
        asleep = slow.submit(publish, run, {"concept-00": fingerprint_of("concept-00")}, parts)
        assert stands.wait(60)
        commit(run, "concept-01")
        publish(run, expected(), parts)
        goes_on.set()
        with pytest.raises(LeaseLostError, match="taken over"):
            asleep.result(60)
    each_row_once(run, CONCEPTS[:2])


def test_pandas_reads_every_part_as_it_is(run: RunFolder) -> None:
    commit(run, "concept-00")
    publish(run, expected(), create_layout(run, 40))
    word = rows(run, "embeddings").iloc[0]
    assert word["placeholder"] == "<concept-00>"
    assert [list(vector) for vector in word["vectors"]] == [[0.5] * 3] * 2
    assert (word["class"], word["steps"], word["stopped_by"], dict(word["carried"])) == (
        "thing", 300, "steps", {"shop": "north"},
    )  # fmt: skip
    assert list(word["norms"]) == pytest.approx([0.75**0.5] * 2)
    sample = rows(run, "samples").iloc[1]
    assert sample["image"] == {"bytes": b"png 1", "path": "concept-00-reconstruction-001.png"}


def test_samples_say_to_hugging_face_datasets_that_they_are_images(run: RunFolder) -> None:
    """Catches pictures that its viewer would show as bytes."""
    commit(run, "concept-00")
    publish(run, expected(), create_layout(run, 1))
    data = run.storage.read_bytes(part_path("samples", 0, 1))
    schema = pq.read_schema(pa.BufferReader(data))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(schema.names)
    arrow = {"string": pa.string(), "int64": pa.int64()}
    for name, feature in features.items():
        if name != "image":
            assert schema.field(name).type == arrow[feature["dtype"]]
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_samples_come_back_as_the_records_they_were(run: RunFolder) -> None:
    commit(run, "concept-00", seed=4)
    publish(run, expected(4), create_layout(run, 1))
    table = read_table(run, part_path("samples", 0, 1))
    assert table is not None
    assert samples_of(table) == [
        Sample("concept-00", "reconstruction", "a <concept-00>", "a", index, 4, b"png %d" % index) for index in range(2)
    ]


def test_the_failures_table_is_what_failed_this_time(run: RunFolder) -> None:
    """Catches a failure that is still listed after its concept was mended."""
    publish_failures(run, [Failure("b", "manifest", "Größe"), Failure("a", "worker", "died", 3, "f" * 64)])
    found = rows(run, "failures")
    assert found.to_dict("records") == [
        {"concept": "a", "fingerprint": "f" * 64, "stage": "worker", "reason": "died", "attempts": 3},
        {"concept": "b", "fingerprint": "", "stage": "manifest", "reason": "Größe", "attempts": 1},
    ]
    publish_failures(run, [])
    assert len(rows(run, "failures")) == 0
    assert list(rows(run, "failures").columns) == list(found.columns)
