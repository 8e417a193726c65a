"""retry.py: a real S3 server behind a proxy that loses requests and answers, and what a person is told in the end."""

import errno

import aiohttp
import botocore.exceptions
import pytest

from pipeline.store import retry
from pipeline.store.storage import Storage, StorageError, StorageNotFoundError, StorageUnavailableError
from tests.conftest import SECRET, Bucket, Faults


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.01)


@pytest.mark.parametrize("fault", ["503", "reset", "stall"])
@pytest.mark.usefixtures("quick_retries")
def test_what_passes_is_tried_again(fault: str, bucket: Bucket, faults: Faults) -> None:
    storage = Storage(bucket.url, {"endpoint_url": faults.endpoint, "config_kwargs": {"read_timeout": 1}})
    for action in (
        lambda: storage.write_bytes("a", b"x"),
        lambda: storage.read_bytes("a"),
        storage.names,
        lambda: storage.create_exclusive("b", b"x"),
    ):
        faults.planned[:] = [fault]
        action()
        assert not faults.planned
    assert Storage(bucket.url, bucket.options).names() == ["a", "b"]


@pytest.mark.usefixtures("quick_retries")
def test_a_creation_whose_answer_was_lost_is_known_as_our_own(bucket: Bucket, faults: Faults) -> None:
    storage = Storage(bucket.url, {"endpoint_url": faults.endpoint})
    faults.lose_answer_to = "PUT"
    assert storage.create_exclusive("marker", b"same bytes")
    assert not storage.create_exclusive("marker", b"same bytes")


@pytest.mark.usefixtures("quick_retries")
def test_a_store_that_stays_away_is_reported_as_such_with_what_to_do(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    storage = Storage(
        bucket.url, {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    )
    with pytest.raises(
        StorageUnavailableError, match=r"cannot read s3://.*/a: no answer in 2 attempts.*Check the endpoint"
    ):
        storage.read_bytes("a")


@pytest.mark.usefixtures("quick_retries")
def test_what_will_not_pass_is_tried_once(bucket: Bucket, faults: Faults) -> None:
    storage = Storage(bucket.url, {"endpoint_url": faults.endpoint})
    with pytest.raises(StorageNotFoundError):
        storage.read_bytes("gone")
    assert faults.requests == 1


@pytest.mark.parametrize("error", [PermissionError(f"no: {SECRET}"), ConnectionResetError(SECRET), ValueError(SECRET)])
@pytest.mark.usefixtures("quick_retries")
def test_no_credential_reaches_a_message_or_a_repr(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    options = {"client_kwargs": {"aws_secret_access_key": SECRET}}
    storage = Storage(f"s3://user:{SECRET}@bucket/run", options)

    def fail() -> None:
        raise error

    with pytest.raises(StorageError) as caught:
        retry.keep_trying("read", storage.url, storage.options, fail)
    assert SECRET not in f"{caught.value} {storage!r}"
    assert "s3://***@bucket/run" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "access denied .*Check the credentials"),
        (FileNotFoundError(), "no such file, folder or bucket. Check the spelling"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left there"),
        (IsADirectoryError(), "it is a folder, not a file"),
        (KeyError("surprise"), "KeyError: 'surprise'"),
    ],
)
def test_a_fault_that_stays_is_explained_at_the_first_try(error: Exception, said: str) -> None:
    tries = []

    def fail() -> None:
        tries.append(1)
        raise error

    with pytest.raises(StorageError, match=f"cannot read s3://bucket/a: .*{said}"):
        retry.keep_trying("read", "s3://bucket/a", {}, fail)
    assert len(tries) == 1


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.EBUSY, "Please reduce your request rate."),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://minio"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="http://minio"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://minio"),
        botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 500}}, "GetObject"),
        aiohttp.ClientPayloadError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.usefixtures("quick_retries")
def test_a_fault_that_passes_is_forgotten(error: Exception) -> None:
    left = [error, error]

    def fail_twice() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retry.keep_trying("read", "s3://bucket/a", {}, fail_twice) == "done"
