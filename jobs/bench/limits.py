"""Measures how hostile and oversized input files are handled, in time and memory: the last table of docs/measured.md.

  python -m jobs.bench.limits

Takes a minute or two on one core. Each file is read in its own process; its memory is the growth of the peak after the imports.
"""

import io
import json
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eval.report.report_page import render_report
from eval.scores.score_tables import ScoredUnder
from eval.scores.summary import ConceptSummary, Estimate, Summary
from jobs.bench.peak import peak_of

Call = tuple[str, str]
MANIFEST: Call = ("from pipeline.inputs.manifest import read_manifest", "read_manifest(sys.argv[1])")
WORD: Call = (
    "from pathlib import Path\nfrom pipeline.store.word_files import decode_word",
    "decode_word(Path(sys.argv[1]).read_bytes())",
)
PICTURE: Call = (
    "from pathlib import Path\nfrom pipeline.inputs.images import decode",
    "decode(Path(sys.argv[1]).read_bytes(), 512, 'centre')",
)
CHECKPOINT: Call = (
    "from pathlib import Path\nfrom pipeline.store.checkpoints import decode_checkpoint",
    "print('refused' if decode_checkpoint(Path(sys.argv[1]).read_bytes()) is None else 'read')",
)
MOST_SIDE = 8_934  # 80 megapixels
MOST_SAID = 100  # characters of a message
SCRIPT = "</script><script>window.hit=1</script>"


def bad_rows(path: Path) -> None:
    path.write_text("concept,images\n" + "!,x\n" * 800_000)


def traversal(path: Path) -> None:
    names = ("../../etc/passwd", "..", "/etc/passwd", "a/b", "con", "a\\b", "-rf", "\u202eowl")
    path.write_text("concept,images\n" + "".join(f"{name},x\n" for name in names))


def same_row(path: Path) -> None:
    same = pa.DictionaryArray.from_arrays(np.zeros(1_000_000, np.int32), ["cat"])
    pq.write_table(pa.table({"concept": same, "images": same}), path)


def same_cell(path: Path) -> None:
    cell = pa.DictionaryArray.from_arrays(np.zeros(5_000, np.int32), ["x" * 10_000_000])
    table = pa.table({"concept": [f"c{row}" for row in range(5_000)], "images": cell})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=20_000_000)


def stride_of_nothing(path: Path) -> None:
    import torch

    torch.save({"emb_params": torch.ones(1).expand(2_000_000, 768)}, path)


def rows_over_each_other(path: Path) -> None:
    import torch

    torch.save({"emb_params": torch.ones(17_000).as_strided((1_024, 16_384), (0, 1))}, path)


def zeros_before_a_word(path: Path) -> None:
    import torch

    torch.save({"clip_l": torch.zeros(1).expand(10**9, 768), "clip_l_out": torch.ones(1, 4)}, path)


def many_tensors(path: Path) -> None:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{number}": one for number in range(500_000)}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def packed_word(path: Path) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save({"emb_params": torch.zeros(1, 4)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, bytes(1_500_000_000) if name.endswith("data/0") else plain.read(name))


def pickle(path: Path) -> None:
    """A hand-written pickle that would create a file beside itself if it were unpickled."""
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(path.with_name("ran")).encode() + b"'\ntR.")


def pickle_in_an_archive(path: Path) -> None:
    """As torch.save packs one."""
    with zipfile.ZipFile(path, "w") as archive:
        pickle(path.with_name("data.pkl"))
        archive.write(path.with_name("data.pkl"), "archive/data.pkl")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def one_tile(path: Path) -> None:
    packed, side = bytes.fromhex("789c") + b"\0" * 64, 46_000
    tags = [(256, 4, 64), (257, 4, 64), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), (322, 4, side), (323, 4, side),
            (324, 4, 300), (325, 4, len(packed))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(head.ljust(300, b"\0") + packed)


def clear_picture(path: Path) -> None:
    Image.new("RGBA", (MOST_SIDE, MOST_SIDE), (9, 9, 9, 100)).save(path)


def deep_greys(path: Path) -> None:
    Image.fromarray(np.ones((MOST_SIDE, MOST_SIDE), np.float32)).save(path, compression="tiff_adobe_deflate")


def packed_text(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    body = b"zTXt" + b"a\0\0" + zlib.compress(bytes(1_000_000_000))
    text = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(buffer.getvalue()[:33] + text + buffer.getvalue()[33:])


def large_canvas(path: Path) -> None:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 16, 16, 0) + b"\x02\x02\x4c\x01\x00;"
    path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + frame)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (6_500, 6_500), (200 * number, 0, 0)) for number in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def nested(path: Path) -> None:
    path.write_bytes(b"[" * 1_000_000)


ATTACKS: tuple[tuple[str, str, Callable[[Path], None], Call], ...] = (
    ("800,000 bad rows", "m.csv", bad_rows, MANIFEST),
    ("names that lead elsewhere, or that a system keeps for itself", "m.csv", traversal, MANIFEST),
    ("Parquet: one row a million times", "m.parquet", same_row, MANIFEST),
    ("Parquet: a cell of 10 MB, 5,000 times", "m.parquet", same_cell, MANIFEST),
    ("a word of 2 million vectors by a stride of nothing", "w.pt", stride_of_nothing, WORD),
    ("a word of 1,024 rows laid over each other", "w.pt", rows_over_each_other, WORD),
    ("a billion rows of zeros before a word", "w.pt", zeros_before_a_word, WORD),
    ("a word file of 500,000 tensors without a number", "w.safetensors", many_tensors, WORD),
    ("a word that unpacks to 1.5 GB", "w.pt", packed_word, WORD),
    ("a pickle that runs a command, as a word", "w.pt", pickle, WORD),
    ("the same in an archive as torch.save makes it", "w.pt", pickle_in_an_archive, WORD),
    ("a pickle that runs a command, as a checkpoint", "c.safetensors", pickle, CHECKPOINT),
    ("JSON nested a million deep, as a checkpoint", "c.safetensors", nested, CHECKPOINT),
    ("a TIFF of 64 pixels a side in one tile of 46,000", "p.tif", one_tile, PICTURE),
    ("a PNG with a text that unpacks to 1 GB", "p.png", packed_text, PICTURE),
    ("a GIF of 16 pixels a side on a canvas of 65,535", "p.gif", large_canvas, PICTURE),
    ("an animated WebP of 42 megapixels", "p.webp", animated, PICTURE),
    ("80 megapixels, transparent", "p.png", clear_picture, PICTURE),
    ("80 megapixels of deep greys", "p.tif", deep_greys, PICTURE),
)


def page_of(count: int) -> str:
    """The report of so many concepts, each of which is called by a script."""
    some = Estimate(0.5, 0.4, 0.6, count)
    concepts = tuple(
        ConceptSummary(
            concept=f"{SCRIPT}{position}", fingerprint="f", placeholder=SCRIPT, noun=SCRIPT, kind="object", reconstruction=0.5,
            reconstruction_low=0.4, reconstruction_high=0.6, reconstruction_floor=0.2, reconstruction_ceiling=0.8,
            covered=position / count, editability=0.3, editability_floor=0.1, editability_ceiling=0.4, editability_covered=0.7,
            steps=100, seconds=1.0, stopped_by="settled", carried={SCRIPT: SCRIPT},
        )
        for position in range(count)
    )  # fmt: skip
    summary = Summary(
        done=count, failed=0, unscored=0, covered=some, reconstruction=some, reconstruction_floor=0.2, reconstruction_ceiling=0.8,
        editability=some, editability_floor=0.1, editability_ceiling=0.4, editability_covered=some, concepts=concepts,
        scored_under=ScoredUnder("quick-v1", "mini", "m", "mini", "c", "dpm++", 20, 5.0),
    )  # fmt: skip
    return render_report(summary, {}, (), {SCRIPT: SCRIPT}, title=SCRIPT)


def main() -> None:
    print(
        "| what | its bytes | seconds, with its imports | memory it grew by | what came of it |\n|---|---|---|---|---|"
    )
    for what, name, make, (imports, call) in ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            make(path)
            began = time.monotonic()
            grown, said = peak_of(imports, call, path)
            seconds = time.monotonic() - began
            outcome = said.replace(str(path), name).replace("|", "/").split(";")[0][:MOST_SAID] or "read"
            if (Path(folder) / "ran").exists():
                outcome = "RAN"
            print(f"| {what} | {path.stat().st_size:,} | {seconds:.1f} | {grown:.0f} MB | {outcome} |", flush=True)
    began = time.monotonic()
    page = page_of(10_000)
    planted = page.count("<script>window.hit")
    print(
        f"| the report of 10,000 concepts, each called `{SCRIPT}` | {len(page.encode()):,} | {time.monotonic() - began:.1f} | | "
        f"{planted} of these scripts in the page |"
    )


if __name__ == "__main__":
    main()
