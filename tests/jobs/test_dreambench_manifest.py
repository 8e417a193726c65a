"""DreamBench's public folder layout, made small, to a manifest that the job's own reader takes."""

from pathlib import Path

import pytest
from PIL import Image

from jobs.dreambench_manifest import NOT_STARTED, WRITTEN, main
from pipeline.inputs.manifest import read_manifest
from pipeline.protocols import PROTOCOLS

TABLE = "Classes\n\nsubject_name,class\nbackpack_dog,backpack\nbear_plushie,stuffed animal\ndog6,dog\n\nPrompts\n\nObject Prompts\n"
SUBJECTS = ("backpack_dog", "bear_plushie", "dog6")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    for name in SUBJECTS:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "00.jpg")
    (folder / "prompts_and_classes.txt").write_text(TABLE, encoding="utf-8")
    (folder / "references_and_licenses.txt").write_text("", encoding="utf-8")
    return folder


def test_every_subject_is_a_concept_with_its_pictures_class_and_list_of_prompts(dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "dreambench.csv"
    assert main([str(dataset), "--output", str(path)]) == WRITTEN
    concepts = read_manifest(str(path)).concepts
    assert [concept.name for concept in concepts] == list(SUBJECTS)
    bear, dog = concepts[1], concepts[2]
    assert bear.images == (str(dataset / "bear_plushie"),)
    assert (bear.noun, bear.initializer) == ("stuffed animal", "stuffed animal")
    dreambench = PROTOCOLS["dreambench"]
    assert dreambench.templates_of(bear)[1] == dreambench.edits["object"]
    assert dreambench.templates_of(dog)[1] == dreambench.edits["live"]


def test_all_that_does_not_fit_together_is_said_at_once(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "dog6" / "00.jpg").unlink()
    (dataset / "bear_plushie").rename(dataset / "teddy")
    assert main([str(dataset), "--output", str(tmp_path / "x.csv")]) == NOT_STARTED
    said = capsys.readouterr().err
    for expected in (
        "dog6: there are no pictures",
        "bear_plushie: there is no such folder",
        "teddy: prompts_and_classes.txt has no",
    ):
        assert expected in said
    assert not (tmp_path / "x.csv").exists()


def test_a_folder_that_is_not_dreambench_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--output", str(tmp_path / "x.csv")]) == NOT_STARTED
    assert "prompts_and_classes.txt: there is no such file" in capsys.readouterr().err
    (tmp_path / "prompts_and_classes.txt").write_text("Classes\n", encoding="utf-8")
    assert main([str(tmp_path), "--output", str(tmp_path / "x.csv")]) == NOT_STARTED
    assert "there is no line 'subject_name,class'" in capsys.readouterr().err
