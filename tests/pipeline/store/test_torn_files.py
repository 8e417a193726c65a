"""Every file of ours cut at every length of interest: it is told by name, counts as absent, and ends nothing."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.status import read_status
from pipeline.records import Concept, Failure, ImageSet, Sample, Word
from pipeline.store.checkpoints import Checkpoint
from pipeline.store.damaged import DamagedFileError
from pipeline.store.lease import lease
from pipeline.store.parts import (
    all_whole,
    create_layout,
    part_path,
    read_layout,
    read_parts,
    read_table,
    write_table,
)
from pipeline.store.publish import publish
from pipeline.store.run_folder import Marker, RunFolder, short
from pipeline.store.run_tables import EMBEDDINGS, FAILURES, embedding_rows, sample_rows
from pipeline.store.storage import Storage

FINGERPRINT = "f" * 64
VECTORS = {"text_encoder": np.ones((1, 4), np.float32)}
DEEP = b"[" * 100_000
CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"", "a byte": lambda data: data[:1], "half": lambda data: data[: len(data) // 2],
    "but for a byte": lambda data: data[:-2], "nested": lambda data: DEEP, "another kind": lambda data: b"[1, 2]",
    "zeros": lambda data: b"\0" * len(data),
}  # fmt: skip


def tear(path: Path, how: str) -> None:
    path.write_bytes(CUTS[how](path.read_bytes()))


def leave_attempt(run: RunFolder, name: str) -> None:
    """What a worker leaves of a word that it committed."""
    word = Word(name, f"<{name}>", VECTORS, VECTORS, "", 1, "steps", 1e-3, 0.1, 1.0)
    images = ImageSet(np.zeros((1, 8, 8, 3), np.uint8), ("a",), ("d",))
    tables = {
        "embedding.parquet": embedding_rows(Concept(name, (), f"<{name}>"), FINGERPRINT, word, images),
        "samples.parquet": sample_rows(FINGERPRINT, [Sample(name, "training", "", "", 0, 0, b"png")]),
    }
    for file, table in tables.items():
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(table, sink)
        run.storage.write_bytes(run.attempt_path(name, FINGERPRINT, "a1", file), bytes(sink.getvalue()))
    run.storage.write_bytes(run.attempt_path(name, FINGERPRINT, "a1", "word.safetensors"), b"word")
    run.commit(Marker(name, FINGERPRINT, "a1", 1, 1.0))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Storage(str(tmp_path / "run")))


@pytest.fixture
def root(run: RunFolder) -> Path:
    return Path(run.storage.url)


@pytest.mark.parametrize("how", CUTS)
def test_a_torn_marker_is_withdrawn_and_its_word_learned_again(run: RunFolder, root: Path, how: str) -> None:
    """Catches a run that ends with a traceback each time, as its marker is there and says nothing."""
    parts = create_layout(run, 2)
    for name in ("owl", "taxi"):
        leave_attempt(run, name)
    tear(root / "_committed" / f"owl@{short(FINGERPRINT)}.json", how)
    assert publish(run, {"owl": FINGERPRINT, "taxi": FINGERPRINT}, parts) == ("owl",)
    assert run.committed() == {("taxi", short(FINGERPRINT))}
    leave_attempt(run, "owl")
    assert publish(run, {"owl": FINGERPRINT, "taxi": FINGERPRINT}, parts) == ()


@pytest.mark.parametrize("table", ["embeddings", "samples"])
@pytest.mark.parametrize("how", CUTS)
def test_a_torn_part_counts_as_absent_and_is_told_by_name(
    run: RunFolder, root: Path, how: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches words that are done, whose rows nobody can read and nobody makes again."""
    parts = create_layout(run, 1)
    leave_attempt(run, "owl")
    publish(run, {"owl": FINGERPRINT}, parts)
    assert all_whole(run)
    path = part_path(table, 0, 1)
    tear(root / path, how)
    assert not all_whole(run)
    with caplog.at_level(logging.WARNING):
        assert publish(run, {"owl": FINGERPRINT}, parts) == ("owl",)
    assert path in caplog.text
    leave_attempt(run, "owl")
    assert publish(run, {"owl": FINGERPRINT}, parts) == ()
    assert read_table(run, path) is not None
    assert all_whole(run)


STRANGE_TABLES = [
    pa.table({"a": [1]}),
    pa.table({"concept": [[1]], "fingerprint": [2.5], "vectors": ["x"], "image": [1]}),
]


@pytest.mark.parametrize("strange", STRANGE_TABLES, ids=["no column", "other types"])
def test_a_table_of_another_kind_counts_as_absent(run: RunFolder, strange: pa.Table) -> None:
    """Catches a traceback for a table that can be read and is none of ours."""
    parts = create_layout(run, 1)
    for file in ("embeddings/part-00000-of-00001.parquet", "failures/part-00000-of-00001.parquet"):
        write_table(run, file, strange)
    assert len(read_parts(run, "embeddings", 1, EMBEDDINGS)) <= 1
    assert len(read_parts(run, "failures", 1, FAILURES)) <= 1
    leave_attempt(run, "owl")
    leave_attempt(run, "taxi")
    write_table(run, run.attempt_path("taxi", FINGERPRINT, "a1", "embedding.parquet"), strange)
    assert publish(run, {"owl": FINGERPRINT, "taxi": FINGERPRINT}, parts) == ("taxi",)
    assert read_parts(run, "embeddings", 1, EMBEDDINGS)["concept"].to_pylist()[-1:] == ["owl"]


@pytest.mark.parametrize("file", ["embedding.parquet", "samples.parquet"])
@pytest.mark.parametrize("how", CUTS)
def test_a_torn_attempt_is_learned_again(run: RunFolder, root: Path, how: str, file: str) -> None:
    parts = create_layout(run, 1)
    leave_attempt(run, "owl")
    tear(root / run.attempt_path("owl", FINGERPRINT, "a1", file), how)
    assert publish(run, {"owl": FINGERPRINT}, parts) == ("owl",)
    assert run.committed() == set()


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize(
    "odd", [None, {"embeddings": 0}, {"embeddings": 1, "scores": 1, "samples": 10**12}, {"x": "y"}]
)
def test_an_odd_layout_is_told_by_the_names_of_the_parts(run: RunFolder, root: Path, how: str, odd: object) -> None:
    parts = create_layout(run, 600)
    if odd is None:
        tear(root / "_layout.json", how)
    else:
        (root / "_layout.json").write_text(json.dumps(odd))
    with pytest.raises(DamagedFileError, match=r"_layout\.json"):
        read_layout(run)
    assert create_layout(run, 600) == parts == {"embeddings": 2, "scores": 2, "samples": 38}
    leave_attempt(run, "owl")
    publish(run, {"owl": FINGERPRINT}, parts)
    (root / "_layout.json").write_bytes(CUTS[how](b'{"embeddings": 2}'))
    assert read_layout(run) == parts


@pytest.mark.parametrize("how", CUTS)
def test_a_torn_checkpoint_or_failure_counts_as_absent(run: RunFolder, root: Path, how: str) -> None:
    run.save_checkpoint(Checkpoint("owl", FINGERPRINT, 5, 0.1, 1.0, (0.5,), VECTORS, VECTORS, VECTORS))
    tear(root / "_checkpoints" / "owl.safetensors", how)
    assert run.checkpoint("owl") is None
    run.record_failure(Failure("owl", "images", "no picture", fingerprint=FINGERPRINT))
    tear(root / "_failed" / f"owl@{short(FINGERPRINT)}.json", how)
    with pytest.raises(DamagedFileError, match="owl@"):
        run.failure("owl", FINGERPRINT)


@pytest.mark.parametrize("how", CUTS)
def test_the_status_of_a_run_is_told_without_its_torn_progress(run: RunFolder, root: Path, how: str) -> None:

    run.write_json("progress.json", {"state": "running", "updated": datetime.now(UTC).isoformat()})
    tear(root / "progress.json", how)
    made = {"updated": datetime.now(UTC).isoformat(), "finished": False}
    assert read_status(run, made, datetime.now(UTC)).state == "running"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"owner": "x',
        DEEP,
        b"[]",
        b'{"until": "soon"}',
        b'{"until": 1e300}',
        b'{"until": NaN}',
        b"{" + b" " * 20_000,
    ],
)
def test_a_torn_or_endless_lease_is_taken_over(run: RunFolder, content: bytes) -> None:
    """Catches a publication that waits for ever for a holder that never was."""
    run.storage.write_bytes("_leases/publish-00000007.json", content)
    run.storage.write_bytes("_leases/publish-strange.json", b"x")
    run.storage.write_bytes("_leases/publish-00000009.json.bak", b"x")
    with lease(run.storage, "publish") as held:
        held.renew(at_once=True)
    assert "publish-00000008.json" in run.storage.names("_leases")


@pytest.mark.parametrize("how", CUTS)
def test_a_torn_run_json_is_told_by_name(run: RunFolder, root: Path, how: str) -> None:
    run.write_json("run.json", {"finished": True})
    tear(root / "run.json", how)
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged"):
        run.read_json("run.json")
