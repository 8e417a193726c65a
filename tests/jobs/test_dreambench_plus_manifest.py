"""DreamBench++'s folder layout, made small, to a manifest and a protocol that the job's own readers take."""

import os
from pathlib import Path

import pytest
from PIL import Image

from jobs.dreambench_manifest import NOT_STARTED, WRITTEN
from jobs.dreambench_plus_manifest import main
from pipeline.inputs.manifest import read_manifest
from pipeline.protocols import find_protocol

CAPTIONS = {
    "animal/00": "Kitten\nA kitten on a sofa.\nAn oil painting of a KITTEN\nkittens everywhere\na kitten and a kitten\n",
    "object/03": 'Coffee cup\nA coffee cup made of "ice"\n',
    "style/01": "Watercolor painting\nA bridge, watercolor painting\n",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, text in CAPTIONS.items():
        for folder in ("images", "captions"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.jpg")
        (tmp_path / "captions" / f"{name}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def test_every_subject_has_its_picture_class_category_and_prompts_of_its_own(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "--output", str(data / "plus.csv")]) == WRITTEN
    concepts = read_manifest(str(data / "plus.csv")).concepts
    protocol = find_protocol(str(data / "plus.toml"))
    assert [(each.name, each.noun, each.kind) for each in concepts] == [
        ("animal-00", "kitten", "object"), ("object-03", "coffee cup", "object"),
        ("style-01", "watercolor painting", "style"),
    ]  # fmt: skip
    assert [each.carried["category"] for each in concepts] == ["animal", "object", "style"]
    assert protocol.templates_of(concepts[0])[1] == ("A {} on a sofa.", "An oil painting of a {}")
    assert protocol.templates_of(concepts[1])[1] == ('A {} made of "ice"',)
    assert protocol.templates_of(concepts[2]) == ("a painting in the style of {}", ("A bridge, {}",))
    assert (protocol.steps, protocol.guidance, protocol.edit_images) == (100, 7.5, 1)
    protocol.refuse_unsuited(concepts)
    said = capsys.readouterr()
    assert "animal-00: 'kittens everywhere'" in said.out + said.err
    assert "animal-00: 'a kitten and a kitten'" in said.out + said.err


def test_all_that_does_not_fit_together_is_said_at_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "images" / "animal" / "00.jpg").unlink()
    (data / "captions" / "style" / "01.txt").write_text("Watercolor\nA bridge\n", encoding="utf-8")
    (data / "captions" / "object" / "03.txt").write_bytes(b"")
    assert main([str(data), "--output", str(data / "plus.csv")]) == NOT_STARTED
    said = capsys.readouterr().err
    for part in ("there are 0 pictures", "no prompt holds the subject 'Watercolor'", "03.txt: expected the subject"):
        assert part in said
    assert not (data / "plus.csv").exists()
    assert main([str(data / "images")]) == NOT_STARTED


def test_a_pipe_among_the_captions_is_told_and_not_waited_for(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(data / "captions" / "animal" / "01.txt")
    assert main([str(data), "--output", str(data / "plus.csv")]) == NOT_STARTED
    assert "01.txt" in capsys.readouterr().err
