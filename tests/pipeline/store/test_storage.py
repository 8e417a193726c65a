"""storage.py on a real disk, in memory and on a real S3 server."""

import errno
import multiprocessing.reduction
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.store.storage import Storage, StorageError, StorageNotFoundError, StorageTooLargeError
from tests.conftest import Bucket


@pytest.fixture(params=["disk", "memory", "s3", "gs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return Storage(str(tmp_path / "run"))
    if request.param == "memory":
        return Storage(f"memory://{tmp_path.name}/run")
    if request.param == "gs":
        return Storage("gs://bucket/run", request.getfixturevalue("google").options)
    bucket: Bucket = request.getfixturevalue("bucket")
    return Storage(f"{bucket.url}/run", bucket.options)


def test_what_is_written_is_read_back_and_replaced_whole(storage: Storage) -> None:
    storage.write_bytes("words/cat.bin", b"one")
    storage.write_bytes("words/cat.bin", b"two, longer")
    storage.write_bytes("words/empty.bin", b"")
    assert storage.read_bytes("words/cat.bin") == b"two, longer"
    assert storage.read_bytes("words/empty.bin", at_most=5) == b""
    assert storage.folder("words").read_bytes("cat.bin", at_most=11) == b"two, longer"


def test_listings_are_sorted_and_tell_files_from_folders(storage: Storage) -> None:
    for path in ("b.txt", "a.txt", "deep/er/c.txt", "deep/d.txt"):
        storage.write_bytes(path, b"x")
    assert storage.names() == ["a.txt", "b.txt"]
    assert storage.names("deep") == ["d.txt"]
    assert storage.names("a.txt") == []
    assert storage.find() == ["a.txt", "b.txt", "deep/d.txt", "deep/er/c.txt"]
    assert storage.find("deep/er") == ["c.txt"]
    assert list(storage.matching("*.txt")) == ["a.txt", "b.txt"]
    assert list(storage.matching("**/d*.txt")) == ["deep/d.txt"]


def test_a_listing_shows_what_was_written_since_the_last_one(storage: Storage) -> None:
    storage.write_bytes("a", b"x")
    assert storage.names() == ["a"]
    storage.write_bytes("b", b"x")
    storage.delete("a")
    assert storage.names() == ["b"]


def test_what_is_not_there_lists_empty_and_is_deleted_without_complaint(storage: Storage) -> None:
    assert storage.names("nowhere") == [] == storage.find("nowhere")
    assert not storage.exists("nowhere")
    storage.delete("nowhere/x")
    storage.write_bytes("folder/x", b"x")
    assert storage.exists("folder/x")
    assert storage.exists("folder")
    assert storage.kind("folder/x") == "file"
    assert storage.kind("folder") == "directory"


def test_reading_what_is_not_there_names_the_url(storage: Storage) -> None:
    with pytest.raises(StorageNotFoundError, match=r"cannot read .*run/gone\.txt: there is no such file"):
        storage.read_bytes("gone.txt")


def test_a_file_over_the_limit_is_refused(storage: Storage) -> None:
    storage.write_bytes("big", b"x" * 101)
    with pytest.raises(StorageTooLargeError, match="more than 100 bytes"):
        storage.read_bytes("big", at_most=100)


def test_only_the_first_exclusive_creation_counts(storage: Storage) -> None:
    assert storage.create_exclusive("marker", b"first")
    assert not storage.create_exclusive("marker", b"second")
    assert storage.read_bytes("marker") == b"first"
    storage.delete("marker")
    assert storage.create_exclusive("marker", b"third")


def test_of_many_that_race_to_create_exactly_one_wins(tmp_path: Path) -> None:
    """On disk only: moto's server checks for the key and then writes it, so its conditional PUT is not atomic; S3's is."""
    storage = Storage(str(tmp_path))
    together = threading.Barrier(8)

    def race(number: int) -> bool:
        together.wait()
        return storage.create_exclusive("deep/marker", b"%d" % number * 1000)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert sum(won) == 1
    assert storage.read_bytes("deep/marker") == b"%d" % won.index(True) * 1000
    assert storage.find() == ["deep/marker"]


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("run.json", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="no space is left"):
        storage.write_bytes("run.json", b"new")
    assert (tmp_path / "run.json").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_partial_files_of_a_killed_process_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".0123.partial").write_bytes(b"half")
    assert Storage(str(tmp_path)).names() == [] == Storage(str(tmp_path)).find()


def test_what_killed_writers_left_unfinished_is_swept_away_and_nothing_else_is(tmp_path: Path) -> None:
    """Catches files that no run ever removes, and a file of somebody else's that is removed with them."""
    for name in (
        f".{'0a' * 16}.partial",
        f"words/.{'1b' * 16}.partial",
        "words/owl.safetensors",
        "mine.partial",
        ".0a.partial",
    ):
        Storage(str(tmp_path)).write_bytes(name, b"half")
    Storage(str(tmp_path)).sweep()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".0a.partial", "mine.partial", "words/owl.safetensors"]


@pytest.mark.parametrize("step", ["replace", "link"])
def test_a_file_that_is_swept_away_while_it_is_written_is_written_anew(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a checkpoint or a marker lost because another driver of the same run was tidying up."""
    storage, real, times = Storage(str(tmp_path)), getattr(os, step), []

    def put(*arguments: object, **keywords: object) -> None:
        times.append(1)
        if len(times) == 1:
            storage.sweep()
        real(*arguments, **keywords)

    monkeypatch.setattr(os, step, put)
    if step == "replace":
        storage.write_bytes("_checkpoints/owl", b"whole")
    else:
        assert storage.create_exclusive("_checkpoints/owl", b"whole")
    assert len(times) == 2
    assert storage.read_bytes("_checkpoints/owl") == b"whole"
    assert [path.name for path in (tmp_path / "_checkpoints").iterdir()] == ["owl"]


def test_exclusive_creation_works_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert Storage(str(tmp_path)).create_exclusive("marker", b"first")
    assert not Storage(str(tmp_path)).create_exclusive("marker", b"second")
    assert (tmp_path / "marker").read_bytes() == b"first"


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/etc/passwd", "a//b", "a/./b", "s3://other/x", "a\0b"])
def test_no_path_leads_outside_the_folder(storage: Storage, path: str) -> None:
    with pytest.raises(ValueError, match="not a plain path inside"):
        storage.write_bytes(path, b"x")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="it is a folder"):
        Storage(str(tmp_path)).read_bytes()


def test_a_storage_travels_to_another_process_with_its_options(storage: Storage) -> None:
    storage.write_bytes("a", b"x")
    sent = multiprocessing.reduction.ForkingPickler.dumps(storage)
    arrived = multiprocessing.reduction.ForkingPickler.loads(sent)
    assert arrived == storage
    assert arrived.read_bytes("a") == b"x"


def test_file_urls_and_plain_paths_are_the_same_place(tmp_path: Path) -> None:
    Storage(f"file://{tmp_path}").write_bytes("a/b", b"x")
    assert Storage(str(tmp_path / "a")).read_bytes("b") == b"x"


def test_writing_to_a_bucket_that_does_not_exist_says_so_and_makes_none(bucket: Bucket) -> None:
    with pytest.raises(StorageNotFoundError, match="no such file, folder or bucket"):
        Storage("s3://no-such-bucket-here/run", bucket.options).write_bytes("a", b"x")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Storage(""), "must not be empty"),
        (lambda: Storage("foo://x"), "nothing is known of foo://"),
        (lambda: Storage("ftp://host/x"), "nothing is known of ftp://"),
        (lambda: Storage("github://owner:repo@main/x"), "nothing is known of github://"),
        (lambda: Storage("reference://x"), "nothing is known of reference://"),
        (lambda: Storage("simplecache::s3://x"), "chained URLs"),
        (lambda: Storage("a\0b"), "NUL"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_where_it_is_given(make: Callable[[], Storage], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_listing_shows_what_another_process_wrote(bucket: Bucket) -> None:
    ours, theirs = Storage(bucket.url, bucket.options), Storage(bucket.url, bucket.options | {"max_concurrency": 2})
    theirs.write_bytes("in/a", b"x")
    assert ours.names("in") == ours.find("in") == ["a"]
    theirs.write_bytes("in/b", b"x")
    theirs.delete("in/a")
    assert not ours.exists("in/a")
    assert ours.names("in") == ours.find("in") == ["b"]
    assert list(ours.matching("in/*")) == ["in/b"]


def test_options_are_the_same_after_use(bucket: Bucket) -> None:
    options = bucket.options | {"config_kwargs": {"retries": {"max_attempts": 2}}}
    Storage(bucket.url, options).write_bytes("a", b"x")
    assert options["config_kwargs"] == {"retries": {"max_attempts": 2}}


def test_a_file_deleted_while_its_folder_is_listed_hides_no_other(tmp_path: Path) -> None:
    """Catches a run that takes its markers, or the leases of its publishers, for none because one file just went."""
    storage = Storage(str(tmp_path))
    storage.write_bytes("markers/stays.json", b"{}")
    going, over = tmp_path / "markers" / "goes.json", threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            going.write_bytes(b"{}")
            going.unlink()

    busy = threading.Thread(target=come_and_go)
    busy.start()
    try:
        assert all("stays.json" in storage.names("markers") for _ in range(5_000))
    finally:
        over.set()
        busy.join()


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_written_or_deleted_through_a_link_out_of_the_folder(deep: bool, tmp_path: Path) -> None:
    """Catches a stranger's run folder whose chosen/ or report/ is a link to a folder of the user's."""
    (tmp_path / "mine" / "in").mkdir(parents=True)
    for name in ("index.html", "in/index.html"):
        (tmp_path / "mine" / name).write_text("precious")
    run = Storage(str(tmp_path / "run"))
    run.write_bytes("run.json", b"{}")
    (tmp_path / "run" / "report").symlink_to(tmp_path / "mine")
    path = "report/in/index.html" if deep else "report/index.html"
    for call in (
        lambda: run.write_bytes(path, b"x"), lambda: run.delete(path), lambda: run.create_exclusive(f"{path}.new", b"x"),
        lambda: run.replace(path, b"x", run.version(path), "_leases/lock", lambda: 9.0),
        lambda: run.delete(path, run.version(path), "_leases/lock"), lambda: run.write_bytes("report/new/a", b"x"),
    ):  # fmt: skip
        with pytest.raises(StorageError, match="through a link out of the folder nothing is written or deleted"):
            call()
    assert run.read_bytes(path) == b"precious"
    assert sorted(each.name for each in (tmp_path / "mine").rglob("*")) == ["in", "index.html", "index.html"]


def test_a_run_folder_may_be_a_link_itself_and_have_links_inside(tmp_path: Path) -> None:
    (tmp_path / "real" / "large").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "samples").symlink_to(tmp_path / "real" / "large")
    run = Storage(str(tmp_path / "run"))
    run.write_bytes("samples/a", b"x")
    run.write_bytes("b", b"x")
    Storage(str(tmp_path / "run" / "b")).write_bytes("", b"y")
    assert (tmp_path / "real" / "large" / "a").read_bytes() == b"x"
    assert run.read_bytes("b") == b"y"
