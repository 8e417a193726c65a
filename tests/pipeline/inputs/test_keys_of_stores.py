"""Signs that mean something in a web address are plain ones in the keys of a store."""

import json
from collections.abc import Sequence

import pytest

from pipeline.inputs.image_sets import find_sources, load_images
from pipeline.inputs.manifest import read_manifest
from pipeline.store.storage import Storage
from tests.conftest import Bucket
from tests.pipeline.inputs.test_images import encoded, picture

NAMES = ("1#a.png", "2?b=c.png", "3+d.png", "4%20e.png", "5 f&g.png", "6;h@i.png")


@pytest.mark.parametrize("written", ["folder", "glob", "list"])
@pytest.mark.parametrize("folder", ["shoes", "set#1", "what?", "a+b", "50%20"])
def test_keys_with_signs_of_web_addresses_are_read_as_they_are(written: str, folder: str, bucket: Bucket) -> None:
    """Catches pictures that are cut at a "#" or a "?" and found nowhere, and those of another key in their place."""
    store = Storage(bucket.url, bucket.options)
    for number, name in enumerate(NAMES):
        store.write_bytes(f"{folder}/p/{name}", encoded(picture(size=(64, 64 + number))))
    said: dict[str, str | Sequence[str]] = {"folder": "p/", "glob": "p/*.png", "list": [f"p/{name}" for name in NAMES]}
    store.write_bytes(f"{folder}/list#1.jsonl", json.dumps({"concept": "shoe", "images": said[written]}).encode())
    (concept,) = read_manifest(f"{bucket.url}/{folder}/list#1.jsonl", bucket.options).concepts
    sources = find_sources(concept, bucket.options)
    images = load_images(sources, 64, "centre", bucket.options)
    assert len(images.pixels) == len(NAMES)
    assert not images.rejected
