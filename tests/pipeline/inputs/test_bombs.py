"""Files of kilobytes that would take gigabytes, each read in a process of its own whose peak of memory is measured."""

import gzip
import io
import json
import os
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.bench.peak import peak_of
from pipeline.inputs.colours import bands, on_white
from pipeline.inputs.images import decode
from pipeline.inputs.manifest import read_manifest
from pipeline.inputs.manifest_problems import LISTED, ManifestError
from pipeline.inputs.picture_file import MAX_PIXELS
from pipeline.inputs.picture_metadata import without_metadata
from pipeline.store.storage import Storage, StorageError

WORD = (
    "from pathlib import Path\nfrom pipeline.store.word_files import decode_word",
    "decode_word(Path(sys.argv[1]).read_bytes())",
)
PICTURE = (
    "from pathlib import Path\nfrom pipeline.inputs.images import decode",
    "decode(Path(sys.argv[1]).read_bytes(), 512, 'centre')",
)


def test_a_word_of_one_number_repeated_by_a_stride_of_nothing_is_refused(tmp_path: Path) -> None:
    """Catches a tensor that claims 1.6 billion numbers and stores one."""
    torch.save({"emb_params": torch.ones(1).expand(2_000_000, 768)}, tmp_path / "word.pt")
    assert (tmp_path / "word.pt").stat().st_size < 5_000
    grown, raised = peak_of(*WORD, tmp_path / "word.pt")
    assert "WordFileError" in raised
    assert grown < 100


@pytest.mark.parametrize("behind", [False, True])
def test_a_word_whose_rows_overlap_or_that_is_never_looked_through_is_refused(behind: bool, tmp_path: Path) -> None:
    """Catches rows of one storage laid over each other, and zeros of a billion rows that are counted."""
    rows = torch.ones(17_000).as_strided((1_024, 16_384), (0, 1))
    zeros = {"clip_l": torch.zeros(1).expand(10**9, 768), "clip_l_out": torch.ones(1, 4)}
    torch.save(zeros if behind else {"clip_l": rows, "t5": rows}, tmp_path / "word.pt")
    grown, raised = peak_of(*WORD, tmp_path / "word.pt")
    assert "WordFileError" in raised
    assert grown < 100


def test_a_header_of_many_tensors_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Catches a gigabyte of names for a file of which no tensor has a number."""
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{number}": one for number in range(500_000)}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    grown, raised = peak_of(*WORD, tmp_path / "w.safetensors")
    assert "it holds 500,000 tensors: a model, not a word" in raised
    assert grown < 100


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_text_or_a_profile_of_a_gigabyte_is_not_unpacked(name: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    packed = zlib.compress(bytes(1_000_000_000))
    body = (b"a\0\1\0\0\0" if name == b"iTXt" else b"a\0\0") + packed
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[:33] + chunk(name, body) + buffer.getvalue()[33:])
    grown, raised = peak_of(*PICTURE, tmp_path / "a.png")
    assert not raised
    assert grown < 100


DRAWN = (
    "from pathlib import Path\nfrom pipeline.inputs.picture_file import decode_drawn",
    "decode_drawn(Path(sys.argv[1]).read_bytes())",
)


@pytest.mark.parametrize("reader", [PICTURE, DRAWN], ids=["of a concept", "of a run folder"])
@pytest.mark.parametrize("name", [b"prVt", b"IDAT"])
def test_a_png_of_millions_of_chunks_is_left_after_the_first(
    reader: tuple[str, str], name: bytes, tmp_path: Path
) -> None:
    """Catches twenty seconds for a file of 60 MB, in whose chunks nothing is."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    png = buffer.getvalue()
    (tmp_path / "a.png").write_bytes(png[:33] + chunk(name, b"") * 5_000_000 + png[33:])
    grown, raised = peak_of(*reader, tmp_path / "a.png")
    assert "a PNG of more than 100,000 chunks: save it anew" in raised
    assert grown < 100


def test_a_png_of_a_chunk_for_each_row_is_read(tmp_path: Path) -> None:
    """Some programs write chunks of a few hundred bytes."""
    buffer = io.BytesIO()
    Image.effect_noise((512, 512), 50).save(buffer, "PNG")
    png = buffer.getvalue()
    at = png.index(b"IDAT") - 4
    packed = b"".join(
        png[start + 8 : start + 8 + int.from_bytes(png[start : start + 4])]
        for start in [match.start() - 4 for match in re.finditer(b"IDAT", png)]
    )
    small = b"".join(chunk(b"IDAT", packed[start : start + 8]) for start in range(0, len(packed), 8))
    assert len(small) / 20 > 10_000
    assert np.array_equal(decode(png[:at] + small + png[-12:], 512, "centre"), decode(png, 512, "centre"))


def saved(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, form)
    return buffer.getvalue()


def tiff_of_strips(count: int, order: str, magic: bytes) -> bytes:
    """A picture of 64 pixels a side in strips that all lie over each other."""
    is_big = magic == b"II+\0"
    number = "Q" if is_big else "I"
    tags = [(256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    head = magic + (struct.pack(order + "HHQQ", 8, 0, 16, 9) if is_big else struct.pack(order + "IH", 8, 9))
    for tag, value in tags:
        head += struct.pack(f"{order}HH{number}I", tag, 4, 1, value) + bytes(4 * is_big)
    for tag, at in ((273, 400), (279, 400 + 4 * count)):
        head += struct.pack(f"{order}HH{number}{number}", tag, 4, count, at)
    offsets, lengths = struct.pack(order + "I", 300) * count, struct.pack(order + "I", 64) * count
    return head.ljust(400, b"\0") + offsets + lengths


PARTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "comments of a JPEG": (lambda: saved("JPEG")[:2] + b"\xff\xfe\0\x02" * 10_000_000 + saved("JPEG")[2:], "far more parts"),
    "what fills a JPEG": (lambda: saved("JPEG")[:2] + b"\xff" * 40_000_000 + saved("JPEG")[2:], "far more parts"),
    "blocks of a GIF": (lambda: saved("GIF")[:-1].replace(b",", b"!\xfe" + b"\1a" * 20_000_000 + b"\0,", 1), "far more parts"),
    "strips of a TIFF": (lambda: tiff_of_strips(7_000_000, "<", b"II*\0"), "more than 100,000 strips"),
    "strips of a TIFF, oddly spelled": (lambda: tiff_of_strips(7_000_000, ">", b"MM*\0"), "more than 100,000 strips"),
    "strips of a BigTIFF": (lambda: tiff_of_strips(7_000_000, "<", b"II+\0"), "more than 100,000 strips"),
    "strips of a BigTIFF, high bytes first": (lambda: tiff_of_strips(7_000_000, ">", b"MM\0+"), "more than 100,000 strips"),
}  # fmt: skip


@pytest.mark.parametrize("parts", PARTS)
def test_a_picture_of_millions_of_parts_is_left(parts: str, tmp_path: Path) -> None:
    """Catches half a minute and two gigabytes for a file of 50 MB."""
    made, said = PARTS[parts]
    (tmp_path / "a").write_bytes(made())
    grown, raised = peak_of(*PICTURE, tmp_path / "a")
    assert said in raised
    assert "save it anew" in raised
    assert grown < 200


@pytest.mark.parametrize(("order", "magic"), [("<", b"II*\0"), (">", b"MM\0*"), ("<", b"II+\0"), (">", b"MM\0+")])
def test_a_tiff_of_a_strip_for_each_row_is_read(order: str, magic: bytes) -> None:
    assert decode(tiff_of_strips(64, order, magic), 32, "centre").shape == (32, 32, 3)


def test_of_a_jpegs_exif_the_first_part_is_read() -> None:
    """Catches minutes of copying for 200 MB of it."""
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    red_above = Image.new("RGB", (64, 64), (220, 30, 30))
    red_above.paste((40, 60, 200), (0, 32, 64, 64))
    red_above.save(buffer, "JPEG", exif=turned)
    data = buffer.getvalue()
    at = data.index(b"\xff\xdb")
    many = data[:at] + (b"\xff\xe1\xff\xfeExif\0\0" + bytes(65_526)) * 20 + data[at:]
    assert np.array_equal(decode(many, 32, "centre"), decode(data, 32, "centre"))
    with Image.open(io.BytesIO(without_metadata(many)[0])) as picture:
        assert len(picture.info["exif"]) < 100


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.gif", "more than 80 megapixels"), ("a.webp", "an animation of more than 40 megapixels"), ("a.heic", "megapixels"),
     ("small.heic", "HEIF"), ("a.avif", "")],
)  # fmt: skip
def test_a_canvas_that_is_larger_than_its_picture_costs_little(name: str, said: str, tmp_path: Path) -> None:
    """A GIF of 16 pixels on a canvas of four gigapixels, an animated WebP, and HEIC and AVIF that lie about their size."""
    path = tmp_path / name
    if name == "a.gif":
        frame = b"," + struct.pack("<HHHHB", 0, 0, 16, 16, 0) + b"\x02\x02\x4c\x01\x00;"
        path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + frame)
    elif name == "a.webp":
        frames = [Image.new("RGB", (6_500, 6_500), (200 * number, 0, 0)) for number in range(2)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    else:
        large = name != "a.heic"
        side, claimed = (3_000, 64) if large else (64, 16_384)
        Image.new("RGB", (side, side)).save(path)
        data, at = bytearray(path.read_bytes()), 0
        while (at := data.find(b"ispe", at + 1)) > 0:
            data[at + 8 : at + 16] = struct.pack(">II", claimed, claimed)
        path.write_bytes(data)
    grown, raised = peak_of(*PICTURE, path)
    assert said in raised
    assert grown < 100


@pytest.mark.parametrize("shape", [(2_000, 8), (2, 100_000), (1, 1)])
def test_a_word_has_no_more_than_a_word_can_have(tmp_path: Path, shape: tuple[int, int]) -> None:
    torch.save(
        {"emb_params": torch.ones(1).expand(*shape) if shape != (1, 1) else torch.ones(shape).to_sparse()},
        tmp_path / "w",
    )
    assert "WordFileError" in peak_of(*WORD, tmp_path / "w")[1]


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    """Catches a packed file of torch.save's layout: torch itself packs nothing."""
    buffer = io.BytesIO()
    torch.save({"emb_params": torch.zeros(1, 4)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, bytes(1_500_000_000) if name.endswith("data/0") else plain.read(name))
    grown, raised = peak_of(*WORD, tmp_path / "w.pt")
    assert "unpack to more" in raised
    assert grown < 100


def tiff_of_one_tile(side: int) -> bytes:
    """A picture of 64 pixels in one tile of `side`, whose packed data are zeros."""
    packed = bytes.fromhex("789c") + b"\0" * 64
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1), (322, 4, 1, side),
            (323, 4, 1, side), (324, 4, 1, 300), (325, 4, 1, len(packed))]  # fmt: skip
    directory = (
        struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    )
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(300, b"\0") + packed


def test_a_tiff_of_one_tile_far_larger_than_the_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of_one_tile(46_000))
    grown, raised = peak_of(*PICTURE, tmp_path / "a.tif")
    assert "its tiles have 2116 megapixels" in raised
    assert grown < 100


@pytest.mark.parametrize("mode", ["F", "I;16"])
def test_a_packed_picture_of_deep_greys_takes_little_more_than_its_pixels(tmp_path: Path, mode: str) -> None:
    """Catches eighty million greys worked on in float64, several times over."""
    side = int(MAX_PIXELS**0.5) - 10
    kind = np.float32 if mode == "F" else np.uint16
    Image.fromarray(np.ones((side, side), kind)).save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    assert (tmp_path / "a.tif").stat().st_size < 1_500_000
    grown, raised = peak_of(*PICTURE, tmp_path / "a.tif")
    assert not raised
    assert grown < 1_000


def test_a_packed_transparent_picture_takes_little_more_than_its_pixels(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) - 10
    Image.new("RGBA", (side, side), (9, 9, 9, 100)).save(tmp_path / "a.png")
    grown, raised = peak_of(*PICTURE, tmp_path / "a.png")
    assert not raised
    assert grown < 1_000


def test_working_inbands_changes_no_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 90, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    assert np.array_equal(np.asarray(on_white(image)), np.asarray(Image.alpha_composite(white, image).convert("RGB")))
    assert sum(band.height for band in bands(image)) == 700
    palette = image.convert("RGB").quantize(16)
    palette.info["transparency"] = 3
    whole = Image.alpha_composite(white, palette.convert("RGBA")).convert("RGB")
    assert np.array_equal(np.asarray(on_white(palette)), np.asarray(whole))


class Server(BaseHTTPRequestHandler):
    """Ignores Range; says of what it sends what the path asks for."""

    sent = 0

    def do_GET(self) -> None:
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/packed":
            body = gzip.compress(bytes(300_000_000))
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.end_headers()
        with suppress(OSError):
            while True:
                Server.sent += self.wfile.write(bytes(1_000_000))

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


HERE = {"web": {"private": True}}
READ = (
    "from pipeline.store.storage import Storage",
    "Storage(sys.argv[1], {'web': {'private': True}}).read_bytes(at_most=20_000_000)",
)


def test_a_server_that_sends_without_end_is_left_at_the_limit(server: str) -> None:
    Server.sent = 0
    grown, raised = peak_of(*READ, f"{server}/endless")
    assert "StorageTooLargeError" in raised
    assert grown < 150
    assert Server.sent < 100_000_000


def test_what_a_server_packs_is_not_unpacked(server: str) -> None:
    grown, raised = peak_of(*READ, f"{server}/packed")
    assert not raised
    assert grown < 100


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    """Catches a call that waits for ever for somebody to write."""
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(StorageError, match="not a regular file"):
        Storage(str(tmp_path / "pipe.png")).read_bytes(at_most=10)


def test_a_manifest_that_unpacks_to_more_than_any_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    same = pa.array(["cat"]).take(pa.array(np.zeros(3_000_000, np.int32)))
    pq.write_table(pa.table({"concept": same, "images": same}), tmp_path / "m.parquet", compression="zstd")
    assert (tmp_path / "m.parquet").stat().st_size < 100_000
    reading = ("from pipeline.inputs.manifest import read_manifest", "read_manifest(sys.argv[1])")
    grown, raised = peak_of(*reading, tmp_path / "m.parquet")
    assert "3,000,000 rows" in raised
    assert grown < 100


def test_a_thousand_problems_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    """Catches a message a hundred times as long as the file that it is about."""
    (tmp_path / "m.csv").write_text("concept,images\n" + "!,x\n" * 3_000)
    with pytest.raises(ManifestError) as refused:
        read_manifest(str(tmp_path / "m.csv"))
    assert len(str(refused.value).splitlines()) == LISTED + 2
    assert "and 2,000 more" in str(refused.value)
