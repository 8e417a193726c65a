"""LeasedStorage: who held a lease before writes nothing over the work of who holds it now.

On a real disk, on a real S3 server and on the tests' own Google store: A's write is held up on its way, its lease runs out, B takes
the lease and writes, and then A's write arrives.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec.asyn
import pytest

from pipeline.store.lease import FileChangedError, LeaseLostError, lease
from pipeline.store.remote.object_stores import replacement
from pipeline.store.storage import Storage
from tests.conftest import Bucket, Faults
from tests.gcs_server import GoogleStore

TABLE = "embeddings/part-00000-of-00001.parquet"


@dataclass
class Place:
    """a's next write of TABLE is held up from `holds` on until `lets_go`; b writes at once."""

    a: Storage
    b: Storage
    holds: threading.Event
    lets_go: threading.Event


@pytest.fixture(params=["disk", "s3", "google"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("pipeline.store.lease.POLL_SECONDS", 0.01)
    holds, lets_go = threading.Event(), threading.Event()
    if request.param == "disk":
        sync = os.fsync

        def slow(file: int) -> None:
            at = str(Path(f"/proc/self/fd/{file}").readlink())
            if threading.current_thread().name.startswith("A") and "embeddings" in at and not holds.is_set():
                holds.set()
                assert lets_go.wait(30)
            sync(file)

        monkeypatch.setattr(os, "fsync", slow)
        made = Storage(str(tmp_path))
        yield Place(made, made, holds, lets_go)
    elif request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        faults: Faults = request.getfixturevalue("faults")
        faults.hold = TABLE
        through = Storage(f"{bucket.url}/run", {**bucket.options, "endpoint_url": faults.endpoint})
        yield Place(through, Storage(f"{bucket.url}/run", bucket.options), faults.holds, faults.lets_go)
    else:
        google: GoogleStore = request.getfixturevalue("google")
        insert = google.insert

        def held(bucket: str, body: bytes, asked: dict[str, str]) -> tuple[int, Any]:
            if b"first, A" in body and not holds.is_set():
                holds.set()
                assert lets_go.wait(30)
            return insert(bucket, body, asked)

        monkeypatch.setattr(google, "insert", held)
        made = Storage("gs://bucket/run", google.options)
        yield Place(made, made, holds, lets_go)
    lets_go.set()


@pytest.fixture
def thread_of_a() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "A") as pool:
        yield pool


def add(storage: Storage, what: bytes, seconds: float = 120.0, *, read: bool = True) -> None:
    with lease(storage, "publish", seconds=seconds) as held:
        held.write_bytes(TABLE, (held.read_bytes(TABLE) if read else b"first") + what)


def begin(place: Place, pool: ThreadPoolExecutor, **options: Any) -> "Future[None]":
    """A's write of "first, A" is on its way, and its lease is about to run out."""
    slow = pool.submit(add, place.a, b", A", 0.5, **options)
    assert place.holds.wait(20)
    return slow


def test_who_sleeps_in_the_middle_of_a_write_leaves_his_successors_work_and_says_so(
    place: Place, thread_of_a: ThreadPoolExecutor
) -> None:
    """Catches a machine that wakes from a pause and puts yesterday's table over today's."""
    place.b.write_bytes(TABLE, b"first")
    slow = begin(place, thread_of_a)
    add(place.b, b", B")
    place.lets_go.set()
    with pytest.raises(LeaseLostError, match=r"the lease 'publish' of .* was taken over"):
        slow.result(30)
    assert place.b.read_bytes(TABLE) == b"first, B"
    add(place.a, b", A again")
    assert place.b.read_bytes(TABLE) == b"first, B, A again"


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_was_not_read_is_not_overwritten_either(
    there: bool, place: Place, thread_of_a: ThreadPoolExecutor
) -> None:
    if there:
        place.b.write_bytes(TABLE, b"old")
    slow = begin(place, thread_of_a, read=False)
    add(place.b, b", B", read=False)
    place.lets_go.set()
    with pytest.raises(LeaseLostError):
        slow.result(30)
    assert place.b.read_bytes(TABLE) == b"first, B"


def test_a_late_write_that_arrives_while_the_successor_works_is_told_to_him_and_kept(
    place: Place, thread_of_a: ThreadPoolExecutor
) -> None:
    """Catches a successor that writes over rows which arrived after its reading."""
    place.b.write_bytes(TABLE, b"first")
    slow = begin(place, thread_of_a)
    with lease(place.b, "publish") as held:
        read = held.read_bytes(TABLE)
        place.lets_go.set()
        slow.exception(30)
        with pytest.raises(FileChangedError, match="changed by another process"):
            held.write_bytes(TABLE, read + b", B")
        held.write_bytes(TABLE, held.read_bytes(TABLE) + b", B")
    assert place.b.read_bytes(TABLE) == b"first, A, B"


def test_who_has_lost_the_lease_creates_and_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.lease.POLL_SECONDS", 0.01)
    storage = Storage(str(tmp_path))
    storage.write_bytes("word", b"x")
    lost = lease(storage, "publish", seconds=0.2).__enter__()
    with lease(storage, "publish"):
        pass
    for call in (
        lambda: lost.delete("word"), lambda: lost.create_exclusive("new", b""), lambda: lost.write_bytes("word", b""),
        lambda: lost.read_bytes("word"),
    ):  # fmt: skip
        with pytest.raises(LeaseLostError):
            call()
    assert storage.read_bytes("word") == b"x"
    assert not storage.exists("new")


@pytest.mark.parametrize("place", ["disk", "google"], indirect=True)
def test_a_late_deletion_leaves_what_was_written_since(place: Place) -> None:
    """Catches a word of the next night that the night before takes away."""
    place.b.write_bytes("word", b"old")
    version = place.b.version("word")
    place.b.write_bytes("word", b"new")
    place.a.delete("word", version, "_leases/lock")  # as it arrives when it was held up
    assert place.b.read_bytes("word") == b"new"
    with lease(place.a, "publish") as held:
        held.delete("word")
        held.delete("word")
    assert not place.b.exists("word")


@pytest.mark.parametrize("what", ["link", "pipe", "link to nothing"])
def test_a_strangers_lock_is_neither_followed_nor_waited_for(what: str, tmp_path: Path) -> None:
    """Catches a run folder with a link in it, by which the next run empties a file of the user's."""
    storage = Storage(str(tmp_path / "run"))
    storage.write_bytes(TABLE, b"first")
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run" / "_leases").mkdir()
    lock = tmp_path / "run" / "_leases" / "lock"
    if what == "pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(tmp_path / ("mine" if what == "link" else "nothing"))
    add(storage, b", A")
    assert storage.read_bytes(TABLE) == b"first, A"
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()
    assert lock.is_file()
    assert not lock.is_symlink()


def test_a_lease_that_ran_out_and_that_nobody_took_is_taken_again(tmp_path: Path) -> None:
    """Catches a laptop that slept while it published, and whose run ends for it."""
    storage = Storage(str(tmp_path))
    with lease(storage, "publish", seconds=0.1) as held:
        threading.Event().wait(0.3)
        held.write_bytes("word", b"x")
        assert "publish-00000002.json" in storage.names("_leases")
    assert storage.read_bytes("word") == b"x"


@pytest.mark.parametrize("over", [True, False])
def test_a_replacement_whose_answer_was_lost_counts(over: bool, bucket: Bucket, faults: Faults) -> None:
    """Catches a holder that takes its own write for another's."""
    storage = Storage(f"{bucket.url}/run", {**bucket.options, "endpoint_url": faults.endpoint})
    if over:
        storage.write_bytes(TABLE, b"first")
    version = storage.version(TABLE)
    faults.lose_answer_to = "PUT"
    assert storage.replace(TABLE, b"second", version, "lock", lambda: 60.0)
    assert not storage.replace(TABLE, b"third", version, "lock", lambda: 60.0)
    assert storage.read_bytes(TABLE) == b"second"


def test_a_lost_answer_of_google_counts_too(google: GoogleStore) -> None:
    storage = Storage("gs://bucket/run", google.options)
    storage.write_bytes(TABLE, b"first")
    version = storage.version(TABLE)
    google.lost = 1
    assert storage.replace(TABLE, b"second", version, "lock", lambda: 60.0)
    assert not storage.replace(TABLE, b"third", version, "lock", lambda: 60.0)


def test_a_store_that_knows_no_conditions_is_written_all_the_same(bucket: Bucket, faults: Faults) -> None:
    storage = Storage(f"{bucket.url}/run", {**bucket.options, "endpoint_url": faults.endpoint})
    faults.planned = ["501"]
    assert storage.replace("word", b"x", "999", "lock", lambda: 60.0)
    assert storage.read_bytes("word") == b"x"


def test_on_a_store_without_conditions_a_write_is_given_up_when_the_lease_runs_out() -> None:
    class SlowStore:
        async_impl, loop = True, fsspec.asyn.get_loop()
        arrived = False

        async def _pipe_file(self, _key: str, _data: bytes) -> None:
            await asyncio.sleep(2)
            self.arrived = True

    store = SlowStore()
    with pytest.raises(asyncio.TimeoutError):
        replacement(store, "az", "word", b"x", "", lambda: 0.2)()
    threading.Event().wait(2.2)
    assert not store.arrived
