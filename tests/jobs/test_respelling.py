"""A row with another placeholder, on a real disk: the same vectors and pictures under the new one, whoever dies in between."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.application.night.respelling import respell
from jobs.application.public_files import grid_file, samples_of_words, word_file
from pipeline.models.families import family_of
from pipeline.records import Concept, ImageSet, Sample, Word
from pipeline.sampling.grid import encode_png
from pipeline.scheduling.planning import Plan
from pipeline.store.parts import read_parts, write_table
from pipeline.store.publish import publish
from pipeline.store.run_folder import Marker, RunFolder
from pipeline.store.run_tables import EMBEDDINGS, SAMPLES, embedding_rows, sample_rows
from pipeline.store.storage import Storage
from pipeline.store.word_files import decode_word
from tests.pipeline.scheduling.test_planning import MODEL, concepts, fingerprint_of, planned, run, to_do

__all__ = ["concepts", "run"]
PARTS = {"embeddings": 1, "samples": 1, "scores": 1}
FAMILY = family_of(MODEL.family)


def learn(cat: Concept, run: RunFolder) -> dict[str, str]:
    """What a run leaves of this word. Returns concept -> fingerprint."""
    done = {cat.name: fingerprint_of(cat)}
    rng = np.random.default_rng(0)
    vectors = {"text_encoder": rng.normal(size=(1, 3)).astype(np.float32)}
    word = Word(cat.name, cat.placeholder, vectors, vectors, "", 300, "steps", 5e-3, 0.1, 1.5)
    images = ImageSet(np.zeros((1, 16, 16, 3), np.uint8), ("a.png",), ("digest",))
    pictures = [encode_png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    samples = [
        Sample("cat", "training", "", "", 0, 0, pictures[0]),
        Sample("cat", "reconstruction", f"a {cat.placeholder}", "a", 0, 7, pictures[1]),
        Sample("cat", "noun", "a thing", "a thing", 0, 7, pictures[2]),
    ]
    tables = {
        "embedding.parquet": embedding_rows(cat, done["cat"], word, images),
        "samples.parquet": sample_rows(done["cat"], samples),
    }
    for file, table in tables.items():
        write_table(run, run.attempt_path("cat", done["cat"], "aaa", file), table)
    assert run.commit(Marker("cat", done["cat"], "aaa", 300, 1.5))
    assert publish(run, done, PARTS) == ()
    rows = read_parts(run, "embeddings", 1, EMBEDDINGS).to_pylist()
    run.storage.write_bytes(run.word_path("cat"), word_file(rows, FAMILY) or b"")
    run.storage.write_bytes(
        run.grid_path("cat"), grid_file(rows, dict(samples_of_words(run, {"cat": rows}, 1))["cat"]) or b""
    )
    return done


def night(rows: list[Concept], run: RunFolder, *, gated: bool = False) -> Plan:
    """What a run does with these rows, none of which is to be learned."""
    found = planned(rows, run)
    assert to_do(found) == []
    respell(run, {each.name: each for each in rows}, found, PARTS, FAMILY)
    assert publish(run, found.done, PARTS, gated=gated) == ()
    return found


def contents(run: RunFolder) -> dict[str, Any]:
    tables = {
        name: read_parts(run, name, 1, schema).to_pylist()
        for name, schema in (("embeddings", EMBEDDINGS), ("samples", SAMPLES))
    }
    files = {path: run.storage.read_bytes(path) for path in (run.word_path("cat"), run.grid_path("cat"))}
    return {**tables, **files, "committed": run.committed()}


def test_a_word_with_another_placeholder_keeps_its_vectors_and_its_pictures(
    concepts: list[Concept], run: RunFolder
) -> None:
    """Catches an hour of a GPU for a name, a table that still has the old one, and a file that a program loads under it."""
    cat = concepts[0]
    done = learn(cat, run)
    before = contents(run)
    tom = replace(cat, placeholder="<tom>")
    assert night([tom], run).respelled == done
    now = contents(run)
    new = fingerprint_of(tom)
    assert now["committed"] == {("cat", new[:16])}
    for table in ("embeddings", "samples"):
        changed = {"fingerprint": new} | ({"placeholder": "<tom>"} if table == "embeddings" else {})
        spelled = [{**row, **changed} for row in before[table]]
        for row in spelled if table == "samples" else ():
            row["prompt"] = row["prompt"].replace("<cat>", "<tom>")
        assert now[table] == spelled
    assert "a <tom>" in [row["prompt"] for row in now["samples"]]
    name, vectors = decode_word(now[run.word_path("cat")])
    assert name == "<tom>"
    assert vectors.keys() == decode_word(before[run.word_path("cat")])[1].keys()
    assert all(np.array_equal(each, decode_word(before[run.word_path("cat")])[1][key]) for key, each in vectors.items())
    assert now[run.grid_path("cat")] != before[run.grid_path("cat")]
    assert night([tom], run).respelled == {}
    night([cat], run)
    assert contents(run) == before


def test_behind_a_gate_it_waits_as_a_candidate(concepts: list[Concept], run: RunFolder) -> None:
    learn(concepts[0], run)
    before = run.storage.read_bytes(run.word_path("cat"))
    night([replace(concepts[0], placeholder="<tom>")], run, gated=True)
    assert run.storage.read_bytes(run.word_path("cat")) == before
    assert decode_word(run.storage.read_bytes(run.candidate_path("cat")))[0] == "<tom>"


@pytest.mark.parametrize("placeholder", ["sks", "<pad>", "<|endoftext|>", "</s>", "<unused7>"])
def test_a_placeholder_that_a_tokenizer_may_have_is_judged_where_words_are_learned(
    placeholder: str, concepts: list[Concept], run: RunFolder
) -> None:
    """Catches a word under a name that already means something to the model."""
    learn(concepts[0], run)
    assert to_do(planned([replace(concepts[0], placeholder=placeholder)], run)) == ["cat"]


def test_a_word_whose_latest_pictures_are_not_in_the_tables_yet_is_learned(
    concepts: list[Concept], run: RunFolder
) -> None:
    """Catches a row that fails every night, because a driver died before it had published the word it was learned from."""
    learn(concepts[0], run)
    (Path(concepts[0].images[0]) / "1.png").write_bytes(b"another")
    assert run.commit(Marker("cat", fingerprint_of(concepts[0]), "bbb", 300, 1.5))
    assert to_do(planned([replace(concepts[0], placeholder="<tom>")], run)) == ["cat"]


def test_a_torn_marker_keeps_no_word_from_its_new_placeholder(concepts: list[Concept], run: RunFolder) -> None:
    done = learn(concepts[0], run)
    run.storage.write_bytes(f"_committed/cat@{done['cat'][:16]}.json", b"torn")
    night([replace(concepts[0], placeholder="<tom>")], run)
    assert decode_word(run.storage.read_bytes(run.word_path("cat")))[0] == "<tom>"


def test_other_inputs_beside_another_placeholder_are_learned(concepts: list[Concept], run: RunFolder) -> None:
    learn(concepts[0], run)
    (Path(concepts[0].images[0]) / "1.png").write_bytes(b"another")
    assert to_do(planned([replace(concepts[0], placeholder="<tom>")], run)) == ["cat"]


@pytest.mark.parametrize("after", range(6))
def test_whoever_dies_while_a_word_is_respelled_loses_nothing(
    after: int, concepts: list[Concept], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(concepts[0], run)
    tom, writes = replace(concepts[0], placeholder="<tom>"), 0
    with monkeypatch.context() as patch:
        for name in ("write_bytes", "create_exclusive"):
            original = getattr(Storage, name)

            def dies(self: Storage, path: str, *rest: bytes, original: Any = original) -> Any:
                nonlocal writes
                writes += 1
                if writes > after:
                    raise KeyboardInterrupt
                return original(self, path, *rest)

            patch.setattr(Storage, name, dies)
        with pytest.raises(KeyboardInterrupt):
            night([tom], run)
    night([tom], run)
    assert decode_word(run.storage.read_bytes(run.word_path("cat")))[0] == "<tom>"
    assert {row["placeholder"] for row in read_parts(run, "embeddings", 1, EMBEDDINGS).to_pylist()} == {"<tom>"}
    assert len(read_parts(run, "samples", 1, SAMPLES)) == 3
    assert run.committed() == {("cat", fingerprint_of(tom)[:16])}
