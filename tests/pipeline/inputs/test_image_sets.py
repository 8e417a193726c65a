"""image_sets.py: which files of a folder, glob or list become a concept's image set."""

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from pipeline.inputs import image_sets
from pipeline.inputs.image_sets import ImageSetError, find_images, load_images
from pipeline.inputs.manifest import read_manifest
from pipeline.records import Concept
from pipeline.store.storage import Storage, StorageUnavailableError
from tests.conftest import Bucket

R = 32
DEMO = Path(__file__).parents[3] / "jobs" / "demo"


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def concept(*patterns: str) -> Concept:
    return Concept("cat", patterns, "<cat>")


FILES = ("b.JPG", "a.png", "c.webp", "notes.txt", ".hidden.png", "more/d.png", "__MACOSX/._a.png", "odd[1].png")


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        storage = Storage(f"{bucket.url}/cats", bucket.options)
    for number, name in enumerate(FILES):
        storage.write_bytes(name, png(number))
    return storage


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([""], ["a.png", "b.JPG", "c.webp", "odd[1].png"]),
        (["/"], ["a.png", "b.JPG", "c.webp", "odd[1].png"]),
        (["/*.png"], ["a.png", "odd[1].png"]),
        (["/**/*.png"], ["a.png", "more/d.png", "odd[1].png"]),
        (["/[ab].*"], ["a.png", "b.JPG"]),
        (["/c.webp", "/*.webp", ""], ["a.png", "b.JPG", "c.webp", "odd[1].png"]),
        (["/odd[1].png"], ["odd[1].png"]),
        (["/.hidden.png"], [".hidden.png"]),
    ],
)
def test_folders_globs_and_files_are_found_sorted_and_once(
    folder: Storage, patterns: list[str], expected: list[str]
) -> None:
    found = find_images(concept(*(folder.url + pattern for pattern in patterns)), folder.options)
    assert [url.removeprefix(f"{folder.url}/") for url in found] == expected
    assert len(load_images(found, R, storage_options=folder.options).urls) == len(expected)


def test_a_file_without_a_suffix_is_found_by_its_name(folder: Storage) -> None:
    folder.write_bytes("picture", png(9))
    assert find_images(concept(f"{folder.url}/picture"), folder.options) == (f"{folder.url}/picture",)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("/nowhere", "no such file, nor a folder with files"),
        ("/*.gif", r"matches no picture \(PNG, JPEG"),
        ("/texts", r"holds no picture among 2 files \(a.tgz, b.txt\)"),
    ],
)
def test_where_no_image_is_found_the_concept_fails_and_says_where(folder: Storage, pattern: str, said: str) -> None:
    folder.write_bytes("texts/a.tgz", b"x")
    folder.write_bytes("texts/b.txt", b"x")
    with pytest.raises(ImageSetError, match=rf"(?s)cat: no images found.*{said}"):
        find_images(concept(folder.url + pattern), folder.options)


def test_a_folder_of_thousands_is_no_concept(tmp_path: Path) -> None:
    for number in range(1_001):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(ImageSetError, match="1,001 images found, at most 1,000"):
        find_images(concept(str(tmp_path)))


def test_a_store_that_does_not_answer_is_not_the_concepts_fault(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.retry.ATTEMPTS", 1)
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    with pytest.raises(StorageUnavailableError):
        load_images([f"{bucket.url}/a.png"], R, storage_options=options)
    with pytest.raises(StorageUnavailableError):
        find_images(concept(bucket.url), options)


def test_a_file_that_is_gone_or_too_large_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sets, "MAX_BYTES", 2_000_000)
    (tmp_path / "large.png").write_bytes(b"x" * 2_000_001)
    (tmp_path / "good.png").write_bytes(png(9))
    loaded = load_images([str(tmp_path / name) for name in ("gone.png", "good.png", "large.png")], R)
    assert [image.reason for image in loaded.rejected] == ["there is no such file", "larger than 2 MB: make it smaller"]


def test_of_identical_files_one_is_kept(tmp_path: Path) -> None:
    data = png(9)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(data)
    loaded = load_images(find_images(concept(str(tmp_path))), R)
    assert loaded.urls == (str(tmp_path / "a.png"),)
    assert loaded.digests == (hashlib.sha256(data).hexdigest(),)
    assert "the same bytes as" in loaded.rejected[0].reason


def test_too_few_images_fail_with_every_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(9))
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ImageSetError, match=r"1 of 2 images can be used, at least 2 needed\n.*b\.png: an empty file"):
        load_images(find_images(concept(str(tmp_path))), R, minimum=2)


def test_every_picture_of_the_demo_can_be_used() -> None:
    concepts = read_manifest(str(DEMO / "manifest.csv")).concepts
    assert sorted(concept.kind for concept in concepts) == ["object"] * 10 + ["style"] * 2
    for one in concepts:
        loaded = load_images(find_images(one), R)
        assert 3 <= len(loaded.pixels) <= 5
        assert not loaded.rejected


def test_the_demo_holds_the_odd_files_that_people_have() -> None:
    opened = [Image.open(path) for path in sorted((DEMO / "images").rglob("*.*"))]
    assert {image.format for image in opened} == {"PNG", "JPEG", "WEBP"}
    assert any(image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 255) for image in opened)
    sideways = [image for image in opened if image.getexif().get(0x0112) == 6]
    assert sideways
    assert {ImageOps.exif_transpose(image).size for image in sideways} == {(256, 256)}
    for image in opened:
        image.close()
