"""listing.py: the same pictures however they are named, on every kind of store; and what cannot serve, told by name."""

import functools
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.inputs.image_sets import ImageSetError, find_images, find_sources, load_images
from pipeline.inputs.manifest import read_manifest
from pipeline.records import ImageSet
from pipeline.store.storage import Storage
from tests.conftest import Bucket
from tests.gcs_server import GoogleStore
from tests.pipeline.inputs.test_image_sets import concept, png

R = 32
# Names that people have: each is opened as it is, wherever a listing finds it or a list names it.
ODD = (
    "plain.png", "a::b.png", "old\\9.png", "100%.png", "a%20b.png", "a b.png", "a+b.png", "a#b.png", "a?b.png", "a[1].png",
    "a*b.png", "köln.PNG", "a\u200db.png", "a\u3000b.png", "line\nend.png", "~home.png", "-dash.png", "'quote\".png",
)  # fmt: skip
STORES = ("disk", "file", "local", "s3", "s3a", "S3", "gs", "gcs", "memory")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder whose own name, and whose parents' names, hold signs of patterns."""
    inside = "data [v2]/a*b/cats"
    match request.param:
        case "disk":
            return Storage(f"{tmp_path}/{inside}")
        case "file" | "local":
            return Storage(f"{request.param}://{tmp_path}/{inside}")
        case "memory":
            return Storage(f"memory://{tmp_path.name}/{inside}")
    if request.param.lower() in ("gs", "gcs"):
        google: GoogleStore = request.getfixturevalue("google")
        return Storage(f"{request.param}://bucket/{inside}", google.options)
    bucket: Bucket = request.getfixturevalue("bucket")
    scheme, name = request.param, bucket.url.removeprefix("s3://")
    return Storage(f"{scheme}://{name}/{inside}", bucket.options)


def usable(store: Storage) -> list[str]:
    """fsspec itself does not take a line end in an object's name, nor a double colon in a name in memory."""
    signs = "" if store.is_local else "\n"
    in_memory = store.url.startswith("memory")
    return [name for name in ODD if not set(signs) & set(name) and not (in_memory and "::" in name)]


def loaded(manifest: Storage, images: object, minimum: int = 1) -> ImageSet:
    import json

    manifest.write_bytes("m.jsonl", json.dumps({"concept": "cat", "images": images}).encode())
    (only,) = read_manifest(manifest.join("m.jsonl"), manifest.options).concepts
    sources = find_sources(only, manifest.options)
    return load_images(sources, R, storage_options=manifest.options, minimum=minimum)


def test_folder_pattern_and_list_are_the_same_set(store: Storage) -> None:
    """Catches a picture that is learned or not by how its place was written down: odd names, brackets in parents, hidden
    files, schemes.
    """
    names = usable(store)
    for number, name in enumerate(names):
        Storage(store.url, store.options).write_bytes(name, png(number))
    store.write_bytes(".thumb.png", png(200))
    store.write_bytes("notes.txt", b"x")
    beside = store.folder("").url.rsplit("/", 3)[0]
    Storage(f"{beside}/axb/cats", store.options).write_bytes(
        "strange.png", png(201)
    )  # what "a*b/" matches as a pattern
    Storage(beside.replace("data [v2]", "data v"), store.options).write_bytes("strange.png", png(202))
    sets = [loaded(store, images).digests for images in ("./", "./*.[pP][nN][gG]", [f"./{name}" for name in names])]
    absolute = concept(store.url)
    sets.append(load_images(find_sources(absolute, store.options), R, storage_options=store.options).digests)
    for found in sets:
        assert len(found) == len(names)
        assert set(found) == set(sets[0])


def test_a_neighbour_of_a_folder_with_signs_is_not_learned(store: Storage) -> None:
    """Catches another concept's pictures: a folder that is not there, but matches one that is when read as a pattern."""
    parent = store.folder("").url.rsplit("/", 2)[0]
    Storage(f"{parent}/axb/cats", store.options).write_bytes("1.png", png(1))
    manifest = Storage(f"{parent}/a*b", store.options)
    for images in ("cats", "cats/*.png", ["cats/1.png"]):
        with pytest.raises(ImageSetError, match=r"no images found|0 of 1 images can be used"):
            loaded(manifest, images)


def test_hidden_files_and_folders_are_left_out_of_patterns(store: Storage) -> None:
    for number, name in enumerate(
        ("a.png", ".thumb.png", ".cache/b.png", "deep/c.png", "deep/.d.png", "__MACOSX/e.png")
    ):
        store.write_bytes(name, png(number))
    assert len(loaded(store, "./**/*.png").digests) == 2
    assert len(loaded(store, "./*.png").digests) == 1


def test_a_folder_named_like_a_picture_is_a_folder(store: Storage) -> None:
    store.write_bytes("icons.png/1.png", png(1))
    store.write_bytes("icons.png/2.png", png(2))
    for images in ("icons.png", "icons.png/"):
        assert len(loaded(store, images).digests) == 2


@pytest.mark.parametrize("images", ["./", "./*", ["./1.png", "./2.jp2", "./3.JXL", "./4.svg", "./5.cr2", "./6.psd"]])
def test_pictures_of_kinds_that_are_not_read_are_named(images: object, store: Storage) -> None:
    """Catches a telephone's pictures that are left out without a word."""
    for name in ("1.png", "2.jp2", "3.JXL", "4.svg", "5.cr2", "6.psd"):
        store.write_bytes(name, png(1))
    found = loaded(store, images)
    assert len(found.urls) == 1
    assert [rejected.reason.split(":")[0] for rejected in found.rejected] == [
        "a JPEG 2000 picture", "a JPEG XL picture", "an SVG drawing", "a camera's raw picture", "a Photoshop file",
    ]  # fmt: skip


@pytest.mark.parametrize("images", ["./", "./*.png", "./**/*.png"])
def test_links_are_followed_and_a_link_to_nothing_is_told(images: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    links = tmp_path / "links"
    links.mkdir()
    for number in range(3):
        (tmp_path / "data" / f"blob{number}").write_bytes(png(number))
        (links / f"{number}.png").symlink_to(tmp_path / "data" / f"blob{number}")
    (links / "gone.png").symlink_to(tmp_path / "data" / "gone")
    (links / "itself.png").symlink_to(links / "itself.png")
    (links / "loop").symlink_to(links)
    found = loaded(Storage(str(links)), images)
    assert len(found.urls) == 3
    told = {
        rejected.url.rsplit("/", 1)[1]: rejected.reason
        for rejected in found.rejected
        if "same bytes" not in rejected.reason
    }
    assert set(told) == {"gone.png", "itself.png"}
    assert all(reason.startswith("a link to nothing") for reason in told.values())


@pytest.mark.parametrize("images", ["./", "./*.png"])
def test_a_name_that_is_not_utf8_is_told_before_training(images: str, tmp_path: Path) -> None:
    """Catches a word that is learned and then lost, because its row cannot be written."""
    (tmp_path / "good.png").write_bytes(png(1))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(png(2))
    found = loaded(Storage(str(tmp_path)), images)
    assert [url.rsplit("/", 1)[1] for url in found.urls] == ["good.png"]
    ((url, reason),) = [(each.url, each.reason) for each in found.rejected]
    assert url.endswith(r"caf\udce9.png")
    assert "not UTF-8" in reason
    url.encode("utf-8")


HERE = {"web": {"private": True}}  # the tests' own server is no public one


class Signed(BaseHTTPRequestHandler):
    """A strict server: it knows only the one path, byte for byte."""

    wanted = ""
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        good = self.path == self.wanted
        self.send_response(200 if good else 403)
        body = png(7) if good else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def signed() -> Iterator[Any]:
    handler: Any = type("Handler", (Signed,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=functools.partial(server.serve_forever, 0.05), daemon=True).start()
    handler.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "path",
    [
        "/a%2Fb.png?X-Sig=a%2Bb%2Fc%3D&x=1", "/a%2fb.png?s=%3d%3D", "/a+b.png?q=a+b%20c", "/caf%C3%A9.png?sig=~!*()'",
        "/a%252Fb.png", "/p.png?a=1&a=2;b",
    ],
)  # fmt: skip
def test_a_web_address_is_sent_byte_for_byte(path: str, signed: Any) -> None:
    """Catches a signed URL that is rewritten on its way, and refused."""
    signed.wanted = path
    found = load_images(find_images(concept(signed.address + path)), R, storage_options=HERE)
    assert len(found.pixels) == 1, found.rejected
    assert set(signed.seen) == {path}


def test_what_cannot_stand_in_a_request_is_escaped(signed: Any) -> None:
    signed.wanted = "/caf%C3%A9%20au%20lait.png"
    assert (
        len(load_images(find_images(concept(f"{signed.address}/café au lait.png")), R, storage_options=HERE).pixels)
        == 1
    )
