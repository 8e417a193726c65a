"""locations.py: how URLs, paths and options are read, and what of them is never shown."""

import pytest

from pipeline.store.locations import parse_storage_options, resolve_url, without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:pass@bucket/a@b.png", "s3://***@bucket/a@b.png"),
        ("https://host/a?X-Amz-Signature=abc&size=3", "https://host/a?X-Amz-Signature=***&size=3"),
        ("s3://bucket/cat?.png", "s3://bucket/cat?.png"),
        ("/home/me@work/a", "/home/me@work/a"),
    ],
)
def test_urls_are_shown_without_what_is_secret(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_storage_options_become_the_arguments_that_s3_wants() -> None:
    pairs = ["endpoint_url=http://minio:9000", "key=0123", "anon=true", "max_concurrency=4", "region=eu-west-1",
             "config_kwargs.read_timeout=5", 's3_additional_kwargs={"ACL": "private"}', "secret=a=b"]  # fmt: skip
    assert parse_storage_options(pairs) == {
        "endpoint_url": "http://minio:9000",
        "key": "0123",
        "anon": True,
        "max_concurrency": 4,
        "client_kwargs": {"region_name": "eu-west-1"},
        "config_kwargs": {"read_timeout": 5},
        "s3_additional_kwargs": {"ACL": "private"},
        "secret": "a=b",
    }


@pytest.mark.parametrize("pair", ["endpoint_url", "=x", "", "my-secret-token"])
def test_a_storage_option_without_a_value_is_refused_unseen(pair: str) -> None:
    with pytest.raises(ValueError, match="key=value") as caught:
        parse_storage_options([pair])
    assert "token" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "folder", "resolved"),
    [
        ("cat/1.png", "s3://bucket/set", "s3://bucket/set/cat/1.png"),
        ("../cat/*.png", "s3://bucket/set", "s3://bucket/cat/*.png"),
        (".", "s3://bucket/set/", "s3://bucket/set"),
        ("cat", "s3://bucket", "s3://bucket/cat"),
        ("cat", "memory://set", "memory:///set/cat"),
        ("gs://other/cat", "s3://bucket/set", "gs://other/cat"),
        ("/data/cat", "s3://bucket/set", "/data/cat"),
        ("../cat", "/data/set", "/data/cat"),
        ("cat", "file:///data/set", "/data/set/cat"),
    ],
)
def test_references_resolve_against_their_folder(reference: str, folder: str, resolved: str) -> None:
    assert resolve_url(reference, folder) == resolved


def test_a_reference_cannot_climb_into_another_bucket() -> None:
    with pytest.raises(ValueError, match="climbs above s3://bucket"):
        resolve_url("../../other/cat", "s3://bucket/set")
