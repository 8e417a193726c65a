"""Captions and masks beside pictures: found, read, refused with a reason, and what they do to a word."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.inputs.image_sets import ImageSetError, find_sources, load_images
from pipeline.inputs.manifest import ManifestError, read_manifest
from pipeline.inputs.sidecars import Extras, captions_of, extras_of
from pipeline.models.load import load_backbone
from pipeline.records import Concept, ImageSet, RejectedImage
from pipeline.settings import InversionSettings
from pipeline.store.fingerprint import fingerprint
from pipeline.store.storage import Storage
from pipeline.training.inversion import SideInformation, draw, losses, new_slot
from pipeline.training.weighting import mask_weights
from tests.conftest import Bucket
from tests.tiny_model import PIXELS

R = 32
MASKED, ALPHA, CAPTIONED = Extras(masks="sidecar"), Extras(masks="alpha"), Extras(captions=True)


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def grey(width: int = 64, height: int = 64, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def left_half(width: int = 64, height: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def loaded(folder: Storage, extras: Extras, crop: str = "centre", options: dict[str, str] | None = None) -> ImageSet:
    sources = find_sources(Concept("c", (folder.url,), "<c>"), options or {}, extras)
    return load_images(sources, R, crop, options or {}, extras=extras)  # type: ignore[arg-type]


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return Storage(str(tmp_path))
    bucket: Bucket = request.getfixturevalue("bucket")
    return Storage(f"{bucket.url}/pictures", bucket.options)


@pytest.mark.parametrize("rejected", ["a", "b", "c"])
def test_a_picture_rejected_for_its_caption_leaves_no_mask_behind(rejected: str, folder: Storage) -> None:
    """Catches every later picture trained under its neighbour's mask, without a word."""
    names = ["a", "b", "c", "d"]
    for number, name in enumerate(names):
        folder.write_bytes(f"{name}.png", png(grey(level=40 * number)))
        mask = left_half() if number % 2 else 255 - left_half()
        folder.write_bytes(f"{name}.mask.png", png(mask))
        folder.write_bytes(f"{name}.txt", b"" if name == rejected else name.encode())
    images = loaded(folder, Extras(captions=True, masks="sidecar"), options=dict(folder.options))
    kept = [name for name in names if name != rejected]
    assert [url.rsplit("/", 1)[1] for url in images.urls] == [f"{name}.png" for name in kept]
    assert images.captions == tuple(kept)
    assert images.masks is not None
    assert len(images.masks) == len(images.pixels) == len(images.digests) == 3
    lefts = [bool(mask[:, : R // 2 - 4].mean() > 128) for mask in images.masks]
    assert lefts == [bool(names.index(name) % 2) for name in kept]


def test_masks_and_captions_belong_to_the_picture_of_their_name(folder: Storage) -> None:
    """Catches a mask that is learned as a picture, and one that is laid over the next picture."""
    options = dict(folder.options)
    for number, name in enumerate(("a.png", "b.jpg", "c.png")):
        folder.write_bytes(name, png(grey(level=50 * number)))
    folder.write_bytes("a.mask.png", png(left_half()))
    folder.write_bytes("b-masklabel.png", png(255 - left_half()))
    folder.write_bytes("c.mask.png", png(np.full((64, 64), 255, np.uint8)))
    folder.write_bytes("b.txt", b"asleep\n")
    both = Extras(captions=True, masks="sidecar")
    found = find_sources(Concept("c", (folder.url,), "<c>"), options, both)
    names = [source.url.rsplit("/", 1)[1] for source in found.files]
    assert names == ["a.png", "a.mask.png", "b.jpg", "b.txt", "b-masklabel.png", "c.png", "c.mask.png"]
    assert all(source.identity for source in found.files)
    images = loaded(folder, both, options=options)
    assert [url.rsplit("/", 1)[1] for url in images.urls] == ["a.png", "b.jpg", "c.png"]
    assert images.captions == (None, "asleep", None)
    assert images.masks is not None
    assert images.masks.shape == (3, R, R)
    assert [mask[:, : R // 2 - 4].mean() for mask in images.masks] == [255, 0, 255]
    assert [source.url for source in images.sources] == [source.url for source in found.files]
    assert all(len(source.digest) == 64 for source in images.sources)
    with_nothing = loaded(folder, Extras(), options=options)
    assert (len(with_nothing.urls), with_nothing.masks, with_nothing.captions) == (6, None, ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_caption_may_be_in_capitals_and_in_another_encoding(encoding: str, folder: Storage) -> None:
    """Catches a 2.TXT from Windows that is passed over, and one that is given to another picture."""
    text = "a {} on\u00a0the \u06a9\u062a\u0627\u0628\u200c\u062e\u0627\u0646\u0647"
    for number, name in enumerate(("1.png", "2.JPG", "Cat.png", "cat.jpg", "dog.png")):
        folder.write_bytes(name, png(grey(level=40 * number)))
    folder.write_bytes("1.mask.PNG", png(left_half()))
    for name in ("2.TXT", "Cat.Txt", "DOG.txt"):
        folder.write_bytes(name, f"{name} {text}\r\n".encode(encoding))
    options = dict(folder.options)
    images = loaded(folder, Extras(captions=True), options=options)
    found = {
        url.rsplit("/", 1)[1]: said and said.split()[0] for url, said in zip(images.urls, images.captions, strict=True)
    }
    found.pop("1.mask.PNG")
    assert found == {"1.png": None, "2.JPG": "2.TXT", "Cat.png": "Cat.Txt", "cat.jpg": None, "dog.png": "DOG.txt"}
    assert {said.split(" ", 1)[1] for said in images.captions if said} == {text.replace("\u00a0", " ")}
    sources = find_sources(Concept("c", (folder.url,), "<c>"), options, MASKED).files
    assert [each.picture[-5:] for each in sources if each.role == "mask" and each.picture] == ["1.png"]


def test_transparency_is_a_mask(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([grey(), left_half()])).save(tmp_path / "a.png")
    images = loaded(Storage(str(tmp_path)), ALPHA)
    assert images.masks is not None
    assert (images.masks[0, :, : R // 2 - 4] == 255).all()
    assert (images.masks[0, :, R // 2 + 4 :] == 0).all()


@pytest.mark.parametrize("crop", ["centre", "pad", "squash"])
def test_a_mask_is_cut_as_its_picture_is(crop: str, tmp_path: Path) -> None:
    """Catches a mask beside the thing that it shows, and white bars that are learned."""
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 40:60] = 255
    Image.fromarray(np.repeat(mask[:, :, None], 3, 2)).save(tmp_path / "a.png")
    Image.fromarray(mask).resize((64, 32)).save(tmp_path / "a.mask.png")
    images = loaded(Storage(str(tmp_path)), MASKED, crop)
    assert images.masks is not None
    picture, found = images.pixels[0, :, :, 0].astype(int), images.masks[0].astype(int)
    rows = slice(R // 4 + 2, 3 * R // 4 - 2) if crop == "pad" else slice(None)
    assert np.abs(picture[rows] - found[rows]).mean() < 12
    if crop == "pad":
        assert (picture[: R // 4 - 1] == 255).all()
        assert (found[: R // 4 - 1] == 0).all()


BAD: dict[str, tuple[Extras, Callable[[Path], object], str]] = {
    "no mask": (MASKED, lambda folder: None, "there is no mask beside it, which would be called NAME.mask.png"),
    "empty mask": (
        MASKED,
        lambda folder: (folder / "a.mask.png").write_bytes(png(np.zeros((64, 64), np.uint8))),
        "a.mask.png: the mask leaves nothing of the picture to learn from",
    ),
    "other proportions": (
        MASKED,
        lambda folder: (folder / "a.mask.png").write_bytes(png(left_half(64, 48))),
        "64 x 48 pixels, which are not the proportions of 64 x 64",
    ),
    "no picture": (MASKED, lambda folder: (folder / "a.mask.png").write_bytes(b"<html>"), "a.mask.png: a web page"),
    "opaque": (ALPHA, lambda folder: None, "opaque everywhere"),
    "Latin-1": (
        CAPTIONED,
        lambda folder: (folder / "a.txt").write_bytes(b"my\ncaf\xe9"),
        "a.txt: line 2: the byte 0xE9 is not UTF-8 (it may be Latin-1 or Windows-1252); save the file as UTF-8",
    ),
    "nothing but a mark": (CAPTIONED, lambda folder: (folder / "a.txt").write_bytes(b"\xff\xfe"), "a.txt: is empty"),
    "escape": (CAPTIONED, lambda folder: (folder / "a.txt").write_bytes(b"a\x1b[2J"), "holds control characters"),
    "nothing said": (CAPTIONED, lambda folder: (folder / "a.txt").write_bytes(b" \n"), "a.txt: is empty"),
    "no caption at all": (CAPTIONED, lambda folder: None, "no picture has one: cat.txt beside cat.jpg"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_cannot_serve_is_refused_with_its_reason(fault: str, tmp_path: Path) -> None:
    """Catches a picture that is learned whole although somebody asked for a part of it."""
    extras, break_it, said = BAD[fault]
    (tmp_path / "a.png").write_bytes(png(grey()))
    break_it(tmp_path)
    with pytest.raises(ImageSetError) as refused:
        loaded(Storage(str(tmp_path)), extras)
    assert said in str(refused.value)


def test_weights_have_a_mean_of_one_whatever_the_size_of_the_concept() -> None:
    small = np.zeros((2, 16, 16), np.uint8)
    small[0, :4, :4], small[1, :, :8] = 255, 255
    for background in (0.0, 0.25):
        weights = mask_weights(small, (8, 8), background)
        assert weights.shape == (2, 1, 8, 8)
        torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(2))
        assert (weights[1, 0, :, 4:] / weights[1, 0, :, :4]).unique().tolist() == pytest.approx([background])


def test_what_a_mask_leaves_out_is_not_learned(epsilon_model: Path) -> None:
    """Catches masks that are read and not applied, or not mirrored with their pictures."""
    torch.set_num_threads(1)
    model = load_backbone(str(epsilon_model))
    pixels = np.random.default_rng(0).integers(0, 256, (1, PIXELS, PIXELS, 3), np.uint8)
    concept, settings = Concept("c", (), "<c>", initializer="cat"), InversionSettings(masks="alpha", batch_size=2)
    slot = new_slot(concept, pixels, model, settings, SideInformation(masks=left_half(PIXELS, PIXELS)[None]))
    slot.posterior.std.zero_()
    drawn = draw(slot, model, "validation", 0, 40)
    mirrored = (drawn.latents - slot.posterior.mean[:1]).abs().sum((1, 2, 3)) > (
        drawn.latents - slot.posterior.mean[1:]
    ).abs().sum((1, 2, 3))
    assert drawn.weights is not None
    left, right = drawn.weights[:, 0, :, 0].mean(1), drawn.weights[:, 0, :, -1].mean(1)
    assert {(each[0].item(), each[1].item(), each[2].item()) for each in zip(mirrored, left, right, strict=True)} == {
        (False, 2.0, 0.0), (True, 0.0, 2.0)
    }  # fmt: skip

    (value,) = losses(model, [slot], [drawn])
    context = model.embed(drawn.tokens, slot.words)
    said = model.predict(model.add_noise(drawn.latents, drawn.noise, drawn.timesteps), drawn.timesteps, context)
    wrong = (said - drawn.noise).square()
    shown = torch.where(
        mirrored[:, None, None, None], wrong[..., wrong.shape[3] // 2 :], wrong[..., : wrong.shape[3] // 2]
    )
    assert value.item() == pytest.approx(shown.mean().item(), rel=1e-5)


def test_settings_say_what_is_wanted() -> None:
    assert extras_of(InversionSettings()) == Extras()
    assert extras_of(InversionSettings(captions=True, masks="sidecar")).endings == {
        ".txt": "caption",
        ".mask.png": "mask",
        "-masklabel.png": "mask",
    }


def test_a_caption_of_the_manifest_goes_before_that_of_a_file() -> None:
    """Catches captions that end up with another picture, and one for a picture that is not there."""
    images = ImageSet(
        np.zeros((3, 8, 8, 3), np.uint8), ("s3://b/1.jpg", "s3://b/2.jpg", "s3://b/3.jpg"), ("x", "y", "z")
    )
    concept = Concept("c", (), "<c>", captions={"2.jpg": "my {} asleep"})
    assert captions_of(concept, images) == (None, "my {} asleep", None)
    assert captions_of(Concept("c", (), "<c>"), images) == ()
    beside = replace(images, captions=("awake", "awake", None))
    assert captions_of(concept, beside) == ("awake", "my {} asleep", None)
    with pytest.raises(ValueError, match=r"names '4\.jpg', which is not one of 1.jpg, 2.jpg, 3.jpg"):
        captions_of(replace(concept, captions={"4.jpg": "a {}"}), images)
    captions_of(
        replace(concept, captions={"4.jpg": "a {}"}), replace(images, rejected=(RejectedImage("s3://b/4.jpg", ""),))
    )


def test_captions_of_the_manifest_are_read_and_count(tmp_path: Path) -> None:
    """Catches a caption that is edited in the manifest, and the word of the old one served for it."""
    (tmp_path / "m.jsonl").write_text(
        '{"concept": "a", "images": "a/", "captions": {"1.jpg": "my {} asleep"}}\n{"concept": "b", "images": "b/"}\n'
    )
    (tmp_path / "m.csv").write_text('concept,images,captions\na,a/,"{""1.jpg"": ""my {} asleep""}"\nb,b/,\n')
    for name in ("m.jsonl", "m.csv"):
        first, second = read_manifest(str(tmp_path / name)).concepts
        assert (first.captions, second.captions) == ({"1.jpg": "my {} asleep"}, {})
        settings = InversionSettings()
        with_caption, without = (
            fingerprint(each, ["d"], "m", "auto", settings) for each in (first, replace(first, captions={}))
        )
        assert with_caption != without
    (tmp_path / "bad.csv").write_text("concept,images,captions\na,a/,my cat asleep\n")
    with pytest.raises(ManifestError, match=r"line 2, captions: .* is no JSON object such as"):
        read_manifest(str(tmp_path / "bad.csv"))
