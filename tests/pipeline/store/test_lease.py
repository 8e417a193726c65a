"""lease(): one holder at a time, on a real disk and a real S3 server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.store.lease import FOLDER, LeaseLostError, lease
from pipeline.store.storage import Storage
from tests.conftest import Bucket


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return Storage(str(tmp_path))
    bucket: Bucket = request.getfixturevalue("bucket")
    return Storage(f"{bucket.url}/run", bucket.options)


def test_of_many_at_once_each_has_its_turn_alone(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches two drivers that replace the same table at the same time."""
    monkeypatch.setattr("pipeline.store.lease.POLL_SECONDS", 0.01)
    inside, most = [0], [0]
    counting = threading.Lock()

    def hold(_: int) -> None:
        with lease(storage, "publish"):
            with counting:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            with counting:
                inside[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(hold, range(6)))
    assert most == [1]
    assert len(storage.names(FOLDER)) == 1, "old leases must not pile up"


def test_one_that_died_with_the_lease_holds_up_the_others_only_until_it_runs_out(storage: Storage) -> None:
    """Catches a run that can never be published again because its driver was killed while it published."""
    dead = lease(storage, "publish", seconds=0.5)
    held = dead.__enter__()
    began = time.monotonic()
    with lease(storage, "publish"):
        assert time.monotonic() - began >= 0.3
        with pytest.raises(LeaseLostError, match="taken over"):
            held.renew(at_once=True)


def test_leases_of_other_names_do_not_meet(storage: Storage) -> None:
    with lease(storage, "publish"), lease(storage, "score") as held:
        held.renew(at_once=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"mine"), ("publish.json", b"{}"), ("publish-1.json", b"{}"), (".DS_Store", b"\0"),
        ("publish-00000007.json", b""), ("publish-00000007.json", b"\xff\xfe"), ("publish-00000007.json", b"[" * 100_000),
        ("publish-00000007.json", b'{"until": 1e999}'), ("publish-00000007.json", b'{"until": NaN}'),
        ("publish-00000007.json", b'{"until": ' + b"9" * 4_000 + b"}"), ("publish-00000007.json", b'{"until": []}'),
        ("publish-00000007.json", b"x" * 100_000), ("publish-999999999999.json", b"{}"), ("publish-99999999999999.json", b"{}"),
    ],
)  # fmt: skip
def test_a_strangers_file_among_the_leases_stops_nothing(
    name: str, content: bytes, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a lease that nobody can take any more, and one that two hold at once."""
    monkeypatch.setattr("pipeline.store.lease.POLL_SECONDS", 0.01)
    storage.write_bytes(f"_leases/{name}", content)
    with lease(storage, "publish") as held:
        held.renew(at_once=True)
    with lease(storage, "publish") as held:
        held.renew(at_once=True)
    if not name.startswith("publish-0") and "9999" not in name:
        assert storage.read_bytes(f"_leases/{name}") == content
