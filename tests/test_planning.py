"""plan(): what is left to do, from files on a real disk and the markers of earlier runs."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline.planning as planning
from pipeline.models import Model
from pipeline.planning import Plan, plan
from pipeline.records import Concept, Failure
from pipeline.run_folder import Marker, RunFolder
from pipeline.settings import InversionSettings
from pipeline.storage import Storage, StorageUnavailableError

MODEL = Model("mini", Path("/models/mini"), "StableDiffusionPipeline", "a" * 64)
SETTINGS = InversionSettings()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Storage(str(tmp_path / "run")))


@pytest.fixture
def concepts(tmp_path: Path) -> list[Concept]:
    """Three concepts of two pictures each; plan() reads their bytes and nothing else."""
    made = []
    for name in ("cat", "dog", "truck"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in (1, 2):
            (folder / f"{number}.png").write_bytes(f"{name} {number}".encode())
        made.append(Concept(name, (str(folder),), f"<{name}>"))
    return made


def planned(
    concepts: list[Concept],
    run: RunFolder,
    *,
    model: Model = MODEL,
    dtype: str = "float32",
    settings: InversionSettings = SETTINGS,
    retry_failed: bool = False,
) -> Plan:
    return plan(concepts, run, model, dtype, settings, {}, retry_failed=retry_failed)


def to_do(found: Plan) -> list[str]:
    return [task.concept.name for task in found.tasks]


def commit(found: Plan, run: RunFolder, *names: str) -> None:
    for name in names:
        assert run.commit(Marker(name, found.expected[name], "aaa", 300, 1.5))


def test_at_first_everything_is_to_be_done_in_the_order_of_the_manifest(
    concepts: list[Concept], run: RunFolder
) -> None:
    found = planned(concepts, run)
    assert to_do(found) == ["cat", "dog", "truck"]
    assert found.tasks[0].urls == tuple(f"{concepts[0].images[0]}/{number}.png" for number in (1, 2))
    assert {task.concept.name: task.fingerprint for task in found.tasks} == found.expected
    assert len(set(found.expected.values())) == 3
    assert (found.failed, found.done) == ((), 0)


def test_what_is_committed_is_not_done_again(concepts: list[Concept], run: RunFolder) -> None:
    commit(planned(concepts, run), run, "cat", "truck")
    found = planned(concepts, run)
    assert to_do(found) == ["dog"]
    assert found.done == 2
    commit(found, run, "dog")
    assert (planned(concepts, run).tasks, planned(concepts, run).done) == ((), 3)


def test_a_failure_is_told_again_and_tried_again_only_when_asked(concepts: list[Concept], run: RunFolder) -> None:
    """Catches a hopeless concept that costs every night anew, and one that is no longer mentioned."""
    first = planned(concepts, run)
    commit(first, run, "cat")
    failure = Failure("dog", "inversion", "the loss stopped being a number")
    run.record_failure(failure, first.expected["dog"])
    found = planned(concepts, run)
    assert (to_do(found), found.done) == (["truck"], 1)
    assert found.failed == ((first.expected["dog"], failure),)
    again = planned(concepts, run, retry_failed=True)
    assert (to_do(again), again.failed, again.done) == (["dog", "truck"], (), 1)


def test_a_failure_is_forgotten_with_the_pictures_that_caused_it(concepts: list[Concept], run: RunFolder) -> None:
    first = planned(concepts, run)
    run.record_failure(Failure("dog", "images", "a broken picture"), first.expected["dog"])
    Path(concepts[1].images[0], "1.png").write_bytes(b"mended")
    assert "dog" in to_do(planned(concepts, run))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "1.png").write_bytes(b"other"),
        lambda folder: (folder / "3.png").write_bytes(b"one more"),
        lambda folder: (folder / "2.png").unlink(),
    ],
    ids=["changed", "added", "removed"],
)
def test_a_changed_image_set_is_learned_anew_and_no_other(
    change: Callable[[Path], object], concepts: list[Concept], run: RunFolder
) -> None:
    """Catches an old word served for new pictures."""
    commit(planned(concepts, run), run, "cat", "dog", "truck")
    change(Path(concepts[1].images[0]))
    found = planned(concepts, run)
    assert (to_do(found), found.done) == (["dog"], 2)


OTHER_SETTINGS: dict[str, Any] = {
    "steps": 301, "batch_size": 5, "learning_rate": 4e-3, "weight_decay": 0.1, "resolution": 64, "crop": "pad", "flip": False,
    "early_stop": "off", "seed": 1, "minimum_images": 2,
}  # fmt: skip


def test_every_setting_is_tried_below() -> None:
    assert set(OTHER_SETTINGS) == {field.name for field in dataclasses.fields(InversionSettings)}


@pytest.mark.parametrize("setting", OTHER_SETTINGS)
def test_a_changed_setting_is_everything_anew(setting: str, concepts: list[Concept], run: RunFolder) -> None:
    """Catches a setting that changes the result and not the fingerprint: the old words would pass for the new ones."""
    commit(planned(concepts, run), run, "cat", "dog", "truck")
    changed = replace(SETTINGS, **{setting: OTHER_SETTINGS[setting]})
    assert to_do(planned(concepts, run, settings=changed)) == ["cat", "dog", "truck"]
    assert to_do(planned(concepts, run)) == []


def test_other_weights_or_another_precision_are_everything_anew(concepts: list[Concept], run: RunFolder) -> None:
    commit(planned(concepts, run), run, "cat", "dog", "truck")
    assert len(planned(concepts, run, model=replace(MODEL, digest="b" * 64)).tasks) == 3
    assert len(planned(concepts, run, dtype="bfloat16").tasks) == 3


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({"placeholder": "<tom>"}, True),
        ({"initializer": "cat"}, True),
        ({"kind": "style"}, True),
        ({"vectors": 2}, True),
        ({"noun": "cat"}, False),
        ({"line": 9}, False),
        ({"carried": {"shop": "north"}}, False),
    ],
    ids=str,
)
def test_a_changed_row_is_learned_anew_where_it_changes_the_word(
    changed: dict[str, Any], again: bool, concepts: list[Concept], run: RunFolder
) -> None:
    commit(planned(concepts, run), run, "cat", "dog", "truck")
    rows = [replace(concepts[0], **changed), *concepts[1:]]
    assert to_do(planned(rows, run)) == (["cat"] if again else [])


def test_the_same_pictures_elsewhere_are_the_same_word(concepts: list[Concept], run: RunFolder, tmp_path: Path) -> None:
    """Catches a catalogue learned again because a bucket was renamed."""
    commit(planned(concepts, run), run, "cat", "dog", "truck")
    moved = Path(concepts[0].images[0]).rename(tmp_path / "moved")
    assert to_do(planned([replace(concepts[0], images=(str(moved),)), *concepts[1:]], run)) == []


def test_a_concept_without_pictures_fails_and_costs_the_others_nothing(
    concepts: list[Concept], run: RunFolder, tmp_path: Path
) -> None:
    """Catches a run of thousands that ends on one empty folder."""
    (tmp_path / "empty").mkdir()
    bad = [replace(concepts[0], name=name, images=(str(tmp_path / name),)) for name in ("empty", "nowhere")]
    found = planned([bad[0], *concepts, bad[1]], run)
    assert to_do(found) == ["cat", "dog", "truck"]
    assert [(print_, failure.concept, failure.stage) for print_, failure in found.failed] == [
        ("", "empty", "images"), ("", "nowhere", "images"),
    ]  # fmt: skip
    assert all("no such file, nor a folder" in failure.reason for _, failure in found.failed)
    assert set(found.expected) == {"cat", "dog", "truck"}
    assert found.done == 0


def test_one_missing_file_of_several_is_left_to_the_worker_and_noticed_when_it_appears(
    concepts: list[Concept], run: RunFolder
) -> None:
    """Catches a concept given up for one of its pictures, and a picture that came later and was never looked at."""
    folder = Path(concepts[0].images[0])
    named = replace(concepts[0], images=tuple(str(folder / f"{number}.png") for number in (1, 2, 3)))
    found = planned([named], run)
    assert to_do(found) == ["cat"]
    assert len(found.tasks[0].urls) == 3
    commit(found, run, "cat")
    assert to_do(planned([named], run)) == []
    (folder / "3.png").write_bytes(b"here at last")
    assert to_do(planned([named], run)) == ["cat"]


def test_a_store_that_does_not_answer_is_a_failure_that_is_not_remembered(
    concepts: list[Concept], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a word learned from half of its pictures, or never again, because of one bad minute."""

    def out(concept: Concept, options: object) -> tuple[str, ...]:
        raise StorageUnavailableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(planning, "find_images", out)
        found = planned(concepts, run)
    assert [failure.reason for _, failure in found.failed] == ["no answer"] * 3
    assert to_do(planned(concepts, run)) == ["cat", "dog", "truck"]
