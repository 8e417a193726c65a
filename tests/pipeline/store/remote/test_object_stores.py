"""object_stores.py: one creator of a file on Google's store, whatever answers are lost; and options that stay where they belong."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.store.locations import parse_storage_options, without_credentials
from pipeline.store.remote.object_stores import options_for
from pipeline.store.run_folder import Marker, RunFolder, doubt_of_exactly_once
from pipeline.store.storage import Storage
from tests.conftest import SECRET, Bucket
from tests.gcs_server import GoogleStore

MARKER = Marker("owl", "0" * 64, "attempt", 10, 1.0)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_word_whose_commit_lost_its_answer_on_google_is_known_as_our_own(google: GoogleStore, lost: int) -> None:
    """Catches a finished training thrown away because its own marker was taken for another worker's."""
    run = RunFolder(Storage("gs://bucket/run", google.options))
    google.lost = lost
    assert run.commit(MARKER)
    assert not run.commit(MARKER)
    assert google.objects["bucket/run/_committed/owl@0000000000000000.json"][0]["generation"] == "1"


def test_of_many_that_race_on_google_exactly_one_wins_though_answers_are_lost(google: GoogleStore) -> None:
    storage = Storage("gs://bucket/run", google.options)
    google.lost = 4
    together = threading.Barrier(8)

    def race(number: int) -> bool:
        together.wait()
        return storage.create_exclusive("marker", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert sum(won) == 1
    assert storage.read_bytes("marker") == b"%d" % won.index(True)


def test_a_google_store_that_is_busy_is_asked_again(google: GoogleStore) -> None:
    google.refused = 1
    assert Storage("gs://bucket/run", google.options).create_exclusive("marker", b"x")


def test_stores_on_which_exactly_one_wins_are_not_doubted(
    google: GoogleStore, bucket: Bucket, tmp_path: object
) -> None:
    for storage in (
        Storage(str(tmp_path)),
        Storage(f"{bucket.url}/run", bucket.options),
        Storage("gs://bucket/run", google.options),
    ):
        assert doubt_of_exactly_once(storage) == ""
        assert storage.names() == []


def test_a_store_that_was_not_tested_and_one_without_conditions_are_told_in_one_line(
    google: GoogleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "was not tested for writers that race" in doubt_of_exactly_once(Storage("memory://doubted/run"))
    insert = google.insert
    monkeypatch.setattr(google, "insert", lambda bucket, body, asked: insert(bucket, body, {}))
    said = doubt_of_exactly_once(Storage("gs://bucket/run", google.options))
    assert "no conditional writes" in said
    assert "\n" not in said


def test_options_of_one_store_are_not_sent_to_another(google: GoogleStore) -> None:
    """Catches a manifest that sends the keys of S3 to a server that it names."""
    pairs = [f"key={SECRET}", f"secret={SECRET}", f"gs.endpoint_url={google.endpoint}", "gs.token=anon"]
    options = parse_storage_options(pairs)
    assert options_for("gs", options) == {"endpoint_url": google.endpoint, "token": "anon"}
    assert options_for("s3", options) == {"key": SECRET, "secret": SECRET}
    assert options_for("hdfs", options) == options_for("https", options) == options_for("memory", options) == {}
    assert Storage("gs://bucket/run", options).names() == []
    assert google.headers
    assert SECRET not in str(google.headers)
    assert SECRET not in without_credentials(f"said {SECRET}", {"gs": {"token": SECRET}})


def test_a_kind_of_store_without_an_options_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gs\.NAME=VALUE"):
        options_for("gs", parse_storage_options(["gs=x"]))
