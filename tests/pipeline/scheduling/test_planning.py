"""plan(): what is left to do, from files on a real disk and the markers of earlier runs."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline.scheduling.planning as planning
from pipeline.inputs.image_sets import digest_of, find_sources
from pipeline.inputs.sidecars import extras_of
from pipeline.models.find import Model
from pipeline.records import Concept, Failure, ImageSet, Source, Word
from pipeline.scheduling.planning import Plan, plan
from pipeline.settings import ABSENT, InversionSettings, ModelSettings
from pipeline.store.fingerprint import content_of, fingerprint
from pipeline.store.parts import create_layout, write_table
from pipeline.store.publish import publish
from pipeline.store.run_folder import ATTEMPTS, Marker, RunFolder
from pipeline.store.run_tables import SAMPLES, embedding_rows
from pipeline.store.storage import Storage, StorageUnavailableError

MODEL = Model("mini", Path("/models/mini"), "StableDiffusionPipeline", "a" * 64)
SETTINGS = InversionSettings()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(Storage(str(tmp_path / "run")))
    create_layout(folder, 3)
    return folder


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
    return [concept.name for concept in found.left]


def fingerprint_of(concept: Concept) -> str:
    """What a worker computes when it has read the images."""
    digests = [digest_of(source, {}) for source in find_sources(concept).files]
    return fingerprint(concept, digests, MODEL.digest, "float32", SETTINGS)


def commit(concepts: list[Concept], run: RunFolder, *names: str) -> None:
    for concept in concepts:
        if concept.name in names:
            assert run.commit(Marker(concept.name, fingerprint_of(concept), "aaa", 300, 1.5))


def test_at_first_everything_is_to_be_done_in_the_order_of_the_manifest_and_no_image_is_read(
    concepts: list[Concept], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a driver that downloads a whole catalogue before the first step of the first word."""
    monkeypatch.setattr(planning, "find_sources", None)
    found = planned(concepts, run)
    assert to_do(found) == ["cat", "dog", "truck"]
    assert (found.failed, found.done) == ((), {})


def test_what_is_committed_is_not_done_again(concepts: list[Concept], run: RunFolder) -> None:
    commit(concepts, run, "cat", "truck")
    found = planned(concepts, run)
    assert to_do(found) == ["dog"]
    assert found.done == {concept.name: fingerprint_of(concept) for concept in concepts if concept.name != "dog"}
    commit(concepts, run, "dog")
    assert (planned(concepts, run).left, set(planned(concepts, run).done)) == ((), {"cat", "dog", "truck"})


def test_a_failure_is_told_again_and_tried_again_only_when_asked(concepts: list[Concept], run: RunFolder) -> None:
    """Catches a hopeless concept that costs every night anew, and one that is no longer mentioned."""
    commit(concepts, run, "cat")
    failure = Failure("dog", "inversion", "the loss stopped being a number", fingerprint=fingerprint_of(concepts[1]))
    run.record_failure(failure)
    found = planned(concepts, run)
    assert (to_do(found), list(found.done)) == (["truck"], ["cat"])
    assert found.failed == (failure,)
    again = planned(concepts, run, retry_failed=True)
    assert (to_do(again), again.failed, list(again.done)) == (["dog", "truck"], (), ["cat"])


def test_images_that_were_not_there_are_looked_for_when_the_next_run_plans(
    concepts: list[Concept], run: RunFolder, tmp_path: Path
) -> None:
    """Catches a GPU bought to see that a folder still is missing; and a concept given up for ever for a bad night's bucket."""
    folder = Path(concepts[1].images[0])
    aside = folder.rename(tmp_path / "aside")
    run.record_failure(Failure("dog", "images", "no such file, nor a folder"))
    found = planned(concepts, run)
    assert to_do(found) == ["cat", "truck"]
    assert [(failure.concept, failure.stage) for failure in found.failed] == [("dog", "images")]
    aside.rename(folder)
    assert to_do(planned(concepts, run)) == ["cat", "dog", "truck"]


def test_a_failure_is_forgotten_with_the_pictures_that_caused_it(concepts: list[Concept], run: RunFolder) -> None:
    run.record_failure(Failure("dog", "images", "a broken picture", fingerprint=fingerprint_of(concepts[1])))
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
    commit(concepts, run, "cat", "dog", "truck")
    change(Path(concepts[1].images[0]))
    found = planned(concepts, run)
    assert (to_do(found), list(found.done)) == (["dog"], ["cat", "truck"])


OTHER_SETTINGS: dict[str, Any] = {
    "steps": 301, "batch_size": 5, "learning_rate": 4e-3, "weight_decay": 0.1, "resolution": 64, "crop": "pad", "flip": False,
    "early_stop": "off", "seed": 1, "minimum_images": 2, "schedule": "cosine", "warmup_steps": 5, "start": "statistics",
    "templates": ("a {}",), "captions": True, "masks": "alpha", "progressive": 0.4, "per_image": 0.25,
    "regularisation": 0.1, "min_snr": 5.0, "norm": "vocabulary", "norm_limit": 2.0, "start_clip": "other",
    "background": 0.5, "flow_times": "uniform", "start_encoder": "e", "timesteps": "uniform", "cross_initialised": True,
    "encoders": ("t5",), "optimiser": "directional", "concentration": 0.01, "word_place": "output",
}  # fmt: skip
# Those that mean nothing without another.
BESIDE: dict[str, dict[str, Any]] = {
    "start_clip": {"start": "nearest", "start_clip": "mini"}, "background": {"masks": "alpha"},
    "start_encoder": {"start": "pictures", "start_encoder": "d"}, "concentration": {"optimiser": "directional"},
}  # fmt: skip


def test_every_setting_is_tried_below() -> None:
    assert set(OTHER_SETTINGS) == {field.name for field in dataclasses.fields(InversionSettings)}


@pytest.mark.parametrize("setting", OTHER_SETTINGS)
def test_every_setting_enters_the_fingerprint(setting: str, concepts: list[Concept]) -> None:
    before = replace(SETTINGS, **BESIDE.get(setting, {}))
    after = replace(before, **{setting: OTHER_SETTINGS[setting]})
    first, second = (fingerprint(concepts[0], ["a"], "m", "auto", each) for each in (before, after))
    assert first != second


def test_options_that_are_off_do_not_undo_the_words_of_runs_that_had_none() -> None:
    """Catches a new option that costs every user all words: this is algorithm 2's fingerprint from before there were any."""
    off: dict[str, Any] = ABSENT
    settings = InversionSettings(steps=12, batch_size=2, learning_rate=5e-3, early_stop="dvar", **off)
    assert fingerprint(Concept("x", (), "<x>", initializer="cat"), ["a"], "m", "auto", settings).startswith(
        "06249181e008"
    )


def test_a_changed_mask_or_caption_is_learned_anew_and_so_is_one_of_another_picture(
    concepts: list[Concept], run: RunFolder
) -> None:
    """Catches a caption that can be edited, or moved to the next picture, without the word being learned from it."""
    settings = replace(SETTINGS, captions=True)
    folder = Path(concepts[0].images[0])
    caption = folder / "1.txt"
    caption.write_text("asleep")
    prints = set()
    for change in (lambda: None, lambda: caption.write_text("awake"), lambda: caption.rename(folder / "2.txt")):
        change()
        sources = find_sources(concepts[0], {}, extras_of(settings)).files
        digests = [content_of(replace(source, digest=digest_of(source, {}))) for source in sources]
        assert len(digests) == 1 + len(find_sources(concepts[0]).files)
        prints.add(fingerprint(concepts[0], digests, "m", "auto", settings))
    assert len(prints) == 3


@pytest.mark.parametrize("setting", sorted(OTHER_SETTINGS.keys() - BESIDE.keys()))
def test_a_changed_setting_is_everything_anew(setting: str, concepts: list[Concept], run: RunFolder) -> None:
    """Catches a setting that changes the result and not the fingerprint: the old words would pass for the new ones."""
    commit(concepts, run, "cat", "dog", "truck")
    for concept in concepts:
        Path(concept.images[0], "1.txt").write_text("a caption that is not looked at unless it is asked for")
    changed = replace(SETTINGS, **{setting: OTHER_SETTINGS[setting]})
    assert to_do(planned(concepts, run, settings=changed)) == ["cat", "dog", "truck"]
    assert to_do(planned(concepts, run)) == []


def test_other_weights_or_another_precision_are_everything_anew(concepts: list[Concept], run: RunFolder) -> None:
    commit(concepts, run, "cat", "dog", "truck")
    assert len(planned(concepts, run, model=replace(MODEL, digest="b" * 64)).left) == 3
    assert len(planned(concepts, run, dtype="bfloat16").left) == 3


def test_every_part_whose_precision_was_asked_for_tells_words_apart() -> None:
    """Catches words of other precision taken for those that are wanted, and words done again for where a model rests."""
    held = [
        ModelSettings(*some)
        for some in itertools.product(("auto", "float16"), ("auto", "float16"), ("auto", "float16"))
    ]
    assert len({each.label for each in held}) == len(held)
    assert ModelSettings(offload_first_stage=True).label == ModelSettings().label == "auto"


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
    commit(concepts, run, "cat", "dog", "truck")
    rows = [replace(concepts[0], **changed), *concepts[1:]]
    assert to_do(planned(rows, run)) == (["cat"] if again else [])


def test_the_same_pictures_elsewhere_are_the_same_word(concepts: list[Concept], run: RunFolder, tmp_path: Path) -> None:
    """Catches a catalogue learned again because a bucket was renamed."""
    commit(concepts, run, "cat", "dog", "truck")
    moved = Path(concepts[0].images[0]).rename(tmp_path / "moved")
    assert to_do(planned([replace(concepts[0], images=(str(moved),)), *concepts[1:]], run)) == []


def test_a_concept_whose_pictures_went_away_fails_and_costs_the_others_nothing(
    concepts: list[Concept], run: RunFolder
) -> None:
    """Catches a run of thousands that ends on one empty folder, and an old word that passes for one of no pictures."""
    commit(concepts, run, "cat", "dog")
    for picture in Path(concepts[0].images[0]).iterdir():
        picture.unlink()
    found = planned(concepts, run)
    assert (to_do(found), list(found.done)) == (["truck"], ["dog"])
    (failure,) = found.failed
    assert (failure.concept, failure.stage, failure.fingerprint) == ("cat", "images", "")
    assert "no such file, nor a folder" in failure.reason


def test_a_picture_that_came_later_is_noticed(concepts: list[Concept], run: RunFolder) -> None:
    """Catches a concept learned from two of its three pictures, and never again."""
    folder = Path(concepts[0].images[0])
    named = replace(concepts[0], images=tuple(str(folder / f"{number}.png") for number in (1, 2, 3)))
    commit([named], run, "cat")
    assert to_do(planned([named], run)) == []
    (folder / "3.png").write_bytes(b"here at last")
    assert to_do(planned([named], run)) == ["cat"]


def test_a_store_that_does_not_answer_is_a_failure_that_is_not_remembered(
    concepts: list[Concept], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a word learned from half of its pictures, or never again, because of one bad minute."""
    commit(concepts, run, "cat", "dog")

    def out(concept: Concept, *options: object) -> tuple[Source, ...]:
        raise StorageUnavailableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(planning, "find_sources", out)
        found = planned(concepts, run)
    assert [failure.reason for failure in found.failed] == ["no answer"] * 2
    assert to_do(planned(concepts, run)) == ["truck"]


def learn(concepts: list[Concept], run: RunFolder) -> None:
    """Leaves what a worker leaves: an attempt with the embedding's row, and the marker."""
    for concept in concepts:
        sources = tuple(replace(source, digest=digest_of(source, {})) for source in find_sources(concept).files)
        vectors = {"text_encoder": np.ones((1, 3), np.float32)}
        word = Word(concept.name, concept.placeholder, vectors, vectors, "", 300, "steps", 5e-3, 0.1, 1.5)
        images = ImageSet(np.zeros((1, 8, 8, 3), np.uint8), ("a.png",), ("digest",), (), sources)
        tables = {
            "embedding.parquet": embedding_rows(concept, fingerprint_of(concept), word, images),
            "samples.parquet": SAMPLES.empty_table(),
        }
        for file, table in tables.items():
            write_table(run, run.attempt_path(concept.name, fingerprint_of(concept), "aaa", file), table)
        run.commit(Marker(concept.name, fingerprint_of(concept), "aaa", 300, 1.5))


@pytest.mark.parametrize("published", [False, True], ids=["driver died before publishing", "published"])
def test_of_pictures_that_did_not_change_not_a_byte_is_read_again(
    published: bool, concepts: list[Concept], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a resume that costs hours of download to find that there is nothing to do."""
    learn(concepts, run)
    if published:
        publish(run, {concept.name: fingerprint_of(concept) for concept in concepts}, create_layout(run, 3))
        assert run.storage.names(ATTEMPTS) == []
    changed = Path(concepts[1].images[0], "2.png")
    changed.write_bytes(b"another dog")
    read: list[str] = []

    def digest(source: Source, options: dict[str, Any]) -> str:
        read.append(source.url)
        return digest_of(source, options)

    monkeypatch.setattr(planning, "digest_of", digest)
    assert to_do(planned(concepts, run)) == ["dog"]
    assert read == [str(changed)]
