"""What counts as done, on a real disk."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.records import Failure
from pipeline.store.run_folder import ATTEMPTS, Marker, RunFolder, shard_of, short
from pipeline.store.storage import Storage, StorageNotFoundError
from tests.conftest import Bucket

FIRST, SECOND = "1" * 64, "2" * 64
# What any version has to go on answering: the parts of old runs are found by it.
PINNED = {"my-cat": 918, "dog": 352, "Größe": 262}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Storage(str(tmp_path / "run")))


def marker(concept: str, fingerprint: str = FIRST, attempt: str = "aaa") -> Marker:
    return Marker(concept, fingerprint, attempt, steps=300, seconds=1.5)


def test_a_commit_is_read_back_and_listed(run: RunFolder) -> None:
    assert run.committed() == set()
    assert run.commit(marker("my-cat"))
    assert run.marker("my-cat", FIRST) == marker("my-cat")
    assert run.committed() == {("my-cat", short(FIRST))}


def test_only_the_first_attempt_at_a_word_counts(run: RunFolder) -> None:
    """Catches a word replaced under the feet of whoever published it, and a concept counted twice."""
    assert run.commit(marker("my-cat", attempt="first"))
    assert not run.commit(marker("my-cat", attempt="second"))
    assert run.marker("my-cat", FIRST).attempt == "first"


def test_of_those_who_commit_at_once_one_wins_and_is_named(run: RunFolder) -> None:
    """Catches two workers that both take their own attempt for the one that counts."""
    start = threading.Barrier(8)

    def commit(number: int) -> bool:
        start.wait()
        return run.commit(marker("my-cat", attempt=str(number)))

    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            won = list(pool.map(commit, range(8)))
            assert won.count(True) == 1
            assert run.marker("my-cat", FIRST).attempt == str(won.index(True))
            run.withdraw("my-cat", FIRST)


def test_a_withdrawn_commit_can_be_made_again(run: RunFolder) -> None:
    run.commit(marker("my-cat", FIRST))
    run.commit(marker("my-cat", SECOND))
    run.withdraw("my-cat", short(FIRST))
    run.withdraw("my-cat", FIRST)
    assert run.committed() == {("my-cat", short(SECOND))}
    assert run.commit(marker("my-cat", FIRST, "bbb"))
    assert run.marker("my-cat", FIRST).attempt == "bbb"


def test_only_the_first_attempt_counts_in_an_object_store(bucket: Bucket) -> None:
    run = RunFolder(Storage(f"{bucket.url}/run", bucket.options))
    assert run.commit(marker("my-cat", attempt="first"))
    assert not run.commit(marker("my-cat", attempt="second"))
    assert run.marker("my-cat", FIRST).attempt == "first"
    assert run.committed() == {("my-cat", short(FIRST))}
    run.withdraw("my-cat", FIRST)
    assert run.committed() == set()


def test_other_inputs_are_another_commit(run: RunFolder) -> None:
    assert run.commit(marker("my-cat", FIRST))
    assert run.commit(marker("my-cat", SECOND))
    assert run.committed() == {("my-cat", short(FIRST)), ("my-cat", short(SECOND))}


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "cat.json", "x" * 128, "_".join("9" * 60)])
def test_every_allowed_name_is_told_apart_from_its_fingerprint(name: str, run: RunFolder) -> None:
    assert run.commit(marker(name))
    run.record_failure(Failure(name, "images", "why", fingerprint=SECOND))
    assert run.committed() == {(name, short(FIRST))}
    assert run.failed() == {(name, short(SECOND))}
    assert run.attempt_path(name, FIRST, "aaa", "grid.png").split("/") == [
        ATTEMPTS, f"{name}@{short(FIRST)}@aaa@grid.png",
    ]  # fmt: skip


def test_strange_files_among_the_markers_are_passed_over(run: RunFolder) -> None:
    run.storage.write_bytes("_committed/README", b"")
    run.storage.write_bytes("_committed/.DS_Store", b"")
    assert run.commit(marker("my-cat"))
    assert run.committed() == {("my-cat", short(FIRST))}


def test_a_failure_is_kept_until_it_is_forgotten(run: RunFolder) -> None:
    failure = Failure("my-cat", "inversion", "the loss stopped being a number: ½", attempts=2, fingerprint=FIRST)
    run.record_failure(failure)
    assert run.failed() == {("my-cat", short(FIRST))}
    assert run.failure("my-cat", FIRST) == failure
    run.forget_failure("my-cat", FIRST)
    run.forget_failure("my-cat", FIRST)
    assert run.failed() == set()
    assert run.committed() == set()


def test_a_marker_that_is_not_there_is_an_error(run: RunFolder) -> None:
    with pytest.raises(StorageNotFoundError):
        run.marker("my-cat", FIRST)


def test_json_is_for_people_too(run: RunFolder) -> None:
    run.write_json("run.json", {"model": "Größe", "done": 3})
    data = run.storage.read_bytes("run.json")
    assert data.decode() == '{\n  "model": "Größe",\n  "done": 3\n}\n'
    assert run.read_json("run.json") == json.loads(data)


def test_a_concept_is_in_the_same_part_everywhere_and_always() -> None:
    """Catches Python's own hash, which differs between processes: two writers would put a row in two parts."""
    assert {name: shard_of(name, 1000) for name in PINNED} == PINNED
    assert {shard_of(name, 1) for name in PINNED} == {0}


def test_parts_are_filled_evenly() -> None:
    sizes = Counter(shard_of(f"concept-{number}", 10) for number in range(10_000))
    assert len(sizes) == 10
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_of_a_failure_without_a_fingerprint_only_missing_images_are_remembered(run: RunFolder) -> None:
    """Catches a concept given up for ever because its worker was lost three times one night."""
    run.record_failure(Failure("my-cat", "images", "no images found"))
    run.record_failure(Failure("my-dog", "worker", "its worker broke off 3 times"))
    assert run.failed() == {("my-cat", "")}
