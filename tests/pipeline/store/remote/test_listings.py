"""listings.py: folders of an object store are left at a limit, and patterns find what they find on a disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import fsspec
import fsspec.asyn
import pytest

from pipeline.store.remote.listings import entries
from pipeline.store.storage import Storage, StorageError, StorageTooLargeError
from tests.conftest import Bucket, Faults
from tests.gcs_server import GoogleStore

TREE = (
    "1.jpg", "2.png", ".3.jpg", "a/1.jpg", "a/b/1.jpg", "a/b/2.txt", "a/b/c/1.jpg",
    "ab/1.jpg", "a[1]/1.jpg", "set*/x.jpg", "x/1.jpg/y.jpg",
)  # fmt: skip
PATTERNS = (
    "*.jpg", "*", "?.jpg", "[12].*", "[!1]*.png", "*/1.jpg", "a/*.jpg", "a/b/1.jpg*", "**/1.jpg", "a/**", "a/**/1.jpg", "**/b/*",
    "a**/1.jpg", "a[[]1]/*.jpg", "set[*]/*", "x/*/*", "nothing/*", "**/*.txt", "*/b/c/*", "**",
)  # fmt: skip


@pytest.fixture(params=["s3", "gs", "memory"])
def place(request: pytest.FixtureRequest) -> Storage:
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        return Storage(f"{bucket.url}/set", bucket.options)
    if request.param == "gs":
        google: GoogleStore = request.getfixturevalue("google")
        return Storage("gs://bucket/set", google.options)
    fsspec.filesystem("memory").rm("/listings", recursive=True) if fsspec.filesystem("memory").exists(
        "/listings"
    ) else None
    return Storage("memory://listings/set")


def test_a_pattern_finds_in_a_store_what_it_finds_on_a_disk(place: Storage, tmp_path: Path) -> None:
    disk = Storage(str(tmp_path))
    for path in TREE:
        disk.write_bytes(path, b"x")
        place.write_bytes(path, b"x")
    for pattern in PATTERNS:
        assert list(place.matching(pattern)) == list(disk.matching(pattern)), pattern


def test_too_many_matches_folders_and_files_are_told(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in TREE:
        place.write_bytes(path, b"x")
    with pytest.raises(StorageError, match="more than 2 names match"):
        place.matching("**/1.jpg", at_most=2)
    monkeypatch.setattr("pipeline.store.remote.listings.MOST_FOLDERS", 2)
    with pytest.raises(StorageError, match="more than 2 folders below it"):
        place.matching("**/1.jpg")
    monkeypatch.setattr("pipeline.store.storage.MOST_LISTED", 2)
    with pytest.raises(StorageTooLargeError, match=r"set.* holds more than 2 files"):
        place.matching("*.jpg")
    with pytest.raises(StorageTooLargeError, match=r"set.* holds more than 2 files"):
        place.identities(at_most=2)
    assert len(place.identities(at_most=9)) == 3
    assert place.folder("no such").identities(at_most=2) == {}


def test_a_folder_of_s3_is_left_at_the_limit_while_it_is_read(bucket: Bucket, faults: Faults) -> None:
    """Catches a bucket of a hundred million files that a manifest names, listed for hours and into gigabytes."""
    system = fsspec.filesystem("s3", **bucket.options)
    system.pipe({f"{bucket.url}/many/{number:05d}.jpg": b"" for number in range(1_100)})
    system.pipe({f"{bucket.url}/folders/{number:05d}/1.jpg": b"" for number in range(1_100)})
    for folder in ("many", "folders"):
        place = Storage(f"{bucket.url}/{folder}", {"endpoint_url": faults.endpoint})
        faults.requests = 0
        with pytest.raises(StorageTooLargeError):
            place.identities(at_most=10)
        assert faults.requests == 1
        assert len(place.identities(at_most=1_100)) == (1_100 if folder == "many" else 0)
        assert faults.requests == 3


def test_a_folder_of_google_is_left_at_the_limit_while_it_is_read(google: GoogleStore) -> None:
    for number in range(1_200):
        name = f"bucket/many/{number:05d}.jpg"
        google.objects[name] = (
            {"kind": "storage#object", "bucket": "bucket", "name": name[7:], "size": "0", "md5Hash": "x"},
            b"",
        )
    place = Storage("gs://bucket/many", google.options)
    with pytest.raises(StorageTooLargeError):
        place.identities(at_most=10)
    assert len(google.headers) == 1
    assert len(place.identities(at_most=1_200)) == 1_200
    assert len(google.headers) == 3


class AzureStandIn:
    """What adlfs' file system is to our listing. No server of Azure can be had here; with adlfs itself and a server that answers
    a container's list of blobs the same was seen once, by hand.
    """

    loop = fsspec.asyn.get_loop()

    def __init__(self, blobs: int) -> None:
        self.blobs, self.told, self.service_client = blobs, 0, self

    def split_path(self, key: str) -> tuple[str, str, None]:
        container, _, path = key.partition("/")
        return container, path, None

    def get_container_client(self, container: str) -> "AzureStandIn":
        assert container == "container"
        return self

    async def __aenter__(self) -> "AzureStandIn":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def walk_blobs(self, include: list[str], name_starts_with: str) -> AsyncIterator[str]:
        assert (include, name_starts_with) == (["metadata"], "many/")
        for number in range(self.blobs):
            self.told += 1
            yield f"many/{number:05d}.jpg"

    async def _details(self, blobs: list[str]) -> list[dict[str, str]]:
        return [{"name": f"container/{name}", "type": "file"} for name in blobs]


def test_a_folder_of_azure_is_left_at_the_limit_while_it_is_read() -> None:
    system = AzureStandIn(5_000)
    assert len(entries(system, "az", "container/many", 10)) == 11
    assert system.told == 12
    assert len(entries(system, "abfs", "container/many", 5_000)) == 5_000


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_all_files_below_a_folder_are_left_at_the_limit_while_they_are_read(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a model's URL that names a bucket of a hundred million files, and a stranger's run folder like that."""
    if kind == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        faults: Faults = request.getfixturevalue("faults")
        system = fsspec.filesystem("s3", **bucket.options)
        system.pipe({f"{bucket.url}/many/deep/{number:05d}.jpg": b"" for number in range(2_100)})
        place = Storage(f"{bucket.url}/many", {"endpoint_url": faults.endpoint})
    else:
        google: GoogleStore = request.getfixturevalue("google")
        for number in range(2_100):
            name = f"bucket/many/deep/{number:05d}.jpg"
            said = {"kind": "storage#object", "bucket": "bucket", "name": name[7:], "size": "0", "md5Hash": "x"}
            google.objects[name] = (said, b"")
        place = Storage("gs://bucket/many", google.options)

    def requests() -> int:
        return faults.requests if kind == "s3" else len(google.headers)

    monkeypatch.setattr("pipeline.store.storage.MOST_LISTED", 10)
    before = requests()
    with pytest.raises(StorageError, match="holds more than 10 files"):
        place.find()
    assert requests() - before == 2  # the folder, and one page of the folder in it
    monkeypatch.undo()
    with pytest.raises(StorageError, match="more than 20 names match"):
        place.find(at_most=20)
    assert len(place.find()) == 2_100
    with pytest.raises(StorageTooLargeError):
        place.identities("deep", at_most=10)


def test_too_many_files_below_a_folder_are_told(place: Storage, tmp_path: Path) -> None:
    for path in TREE:
        place.write_bytes(path, b"x")
        Storage(str(tmp_path)).write_bytes(path, b"x")
    for each in (place, Storage(str(tmp_path))):
        assert each.find() == sorted(TREE)
        assert each.find("a/b") == ["1.jpg", "2.txt", "c/1.jpg"]
        assert each.find("no such") == []
        with pytest.raises(StorageError, match=r"more than 3 (files|names)"):
            each.find(at_most=3)
