"""How a run folder's tables are laid out in parts: fixed once, and never by a question."""

from pathlib import Path

import pytest

from pipeline.store.parts import create_layout, read_layout
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.storage import Storage, StorageNotFoundError

CONCEPTS = [f"concept-{number:02d}" for number in range(40)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Storage(str(tmp_path / "run")))


def test_a_run_keeps_the_parts_it_began_with(run: RunFolder) -> None:
    """Catches a grown manifest that moves every row to another file and leaves the old ones behind."""
    first = create_layout(run, 40)
    assert first == {"embeddings": 1, "scores": 1, "samples": 3}
    assert create_layout(run, 100_000) == first
    assert read_layout(run) == first


@pytest.mark.parametrize("concepts", [0, 1, 16, 17, 512, 513, 5_000, 100_000])
def test_parts_are_few_and_those_of_samples_nest_in_those_of_scores(concepts: int, run: RunFolder) -> None:
    """Catches a run of 100,000 concepts with 100,000 files, and a scorer that would need half of a part."""
    parts = create_layout(run, concepts)
    assert parts["samples"] % parts["scores"] == 0
    assert parts["samples"] <= max(1, concepts / 8)
    assert parts["embeddings"] <= concepts / 512 + 1
    for name in CONCEPTS:
        assert shard_of(name, parts["samples"]) % parts["scores"] == shard_of(name, parts["scores"])


def test_asking_for_the_layout_of_a_folder_without_a_run_writes_nothing(run: RunFolder) -> None:
    """Catches a layout for no concepts at all, fixed by a reader who mistyped the folder of a run that starts later."""
    with pytest.raises(StorageNotFoundError):
        read_layout(run)
    assert run.storage.names("") == []
    assert create_layout(run, 100_000)["embeddings"] == 196


@pytest.mark.parametrize(
    "odd",
    ['{"embeddings": 1e999, "scores": 1, "samples": 3}', '{"embeddings": 7, "scores": 7, "samples": 21}', "[1, 2]", '"x"', "null",
     '{"embeddings": [1], "scores": {}, "samples": null}', '{"embeddings": -1, "scores": 0, "samples": 3}', "1e999", "{" * 100_000],
)  # fmt: skip
def test_an_odd_layout_stops_nothing_and_hides_no_part(odd: str, run: RunFolder) -> None:
    """Catches a layout of numbers that are no run's, by which every word would be learned again."""
    first = create_layout(run, 40)
    run.storage.write_bytes("embeddings/part-00000-of-00001.parquet", b"x")
    run.storage.write_bytes("samples/part-00002-of-00003.parquet", b"x")
    run.storage.write_bytes("_layout.json", odd.encode())
    assert read_layout(run) == first == create_layout(run, 40)


def test_a_strangers_part_does_not_outvote_the_layout(run: RunFolder) -> None:
    first = create_layout(run, 40)
    for name in ("part-00000-of-00001", "part-00000-of-99999"):
        run.storage.write_bytes(f"embeddings/{name}.parquet", b"x")
    assert read_layout(run) == first
