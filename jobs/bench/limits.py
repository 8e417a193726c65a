"""Measures how hostile and oversized input files are handled, in time and memory: the last table of docs/measured.md.

  python -m jobs.bench.limits

Takes a minute or two on one core. Each file is read in its own process; its memory is the growth of the peak after the imports.
"""

import io
import json
import os
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
TEMPLATE: Call = (
    """from pathlib import Path
import torch
from pipeline.models.find import Model
from pipeline.models.flow.z_image import ZImage
from pipeline.models.text.text_encoder import TextEncoder""",
    "TextEncoder(ZImage.TEXT['text_encoder'], Model('m', Path(sys.argv[1]), 'ZImagePipeline', ''), 'text_encoder', torch.float32)",
)
CHECKPOINT: Call = (
    "from pathlib import Path\nfrom pipeline.store.checkpoints import decode_checkpoint",
    "print('refused' if decode_checkpoint(Path(sys.argv[1]).read_bytes()) is None else 'read')",
)
JSON: Call = (
    "from pathlib import Path\nfrom pipeline.store.run_folder import RunFolder\nfrom pipeline.store.storage import Storage",
    "RunFolder(Storage(str(Path(sys.argv[1]).parent))).read_run()",
)
LISTS: Call = (
    f"{JSON[0]}\nfrom pipeline.store.catalogue.listed import read_lists",
    "print(len(read_lists(RunFolder(Storage(sys.argv[1])))[0].concepts), 'names')",
)
TOKENIZER: Call = (
    "from pathlib import Path\nfrom pipeline.models.configuration import refuse_code",
    "refuse_code(Path(sys.argv[1]))",
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


def said(opcodes: bytes) -> Callable[[Path], None]:
    """An archive as torch.save makes it, whose pickle is the dict of one word that these opcodes make."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", b"\x80\x02}X\x03\0\0\0<w>" + opcodes + b"s.")

    return make


def many_entries(path: Path) -> None:
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    end = struct.pack("<HHHHIIH", 0, 0, 65_535, 65_535, len(entry) * 500_000, 4, 0)
    path.write_bytes(b"PK\x03\x04" + entry * 500_000 + b"PK\x05\x06" + end)


def sparse(path: Path) -> None:
    import torch

    torch.save(
        {"<w>": torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (10**9, 10**9), check_invariants=False)}, path
    )


def nested_tensor(path: Path) -> None:
    import torch

    torch.save({"<w>": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)], layout=torch.jagged)}, path)


def large_metadata(text: str) -> Callable[[Path], None]:
    """A word with so much metadata."""

    def make(path: Path) -> None:
        tensors = {"emb_params": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]}}
        header = f'{{"__metadata__":{text},{json.dumps(tensors)[1:]}'.encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))

    return make


def endless_template(path: Path) -> None:
    """A tiny Z-Image's text encoder, whose tokenizer's chat template counts for ever."""
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

    tokenizer = Qwen2Tokenizer(
        vocab={name: at for at, name in enumerate(("<|endoftext|>", *map(chr, range(33, 127))))}, merges=[]
    )
    tokenizer.chat_template = "{% for a in range(9999) %}" * 9 + "{{ 'a' * 10**9 }}" + "{% endfor %}" * 9
    tokenizer.save_pretrained(path / "tokenizer")
    config = Qwen3Config(
        vocab_size=200, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        head_dim=8,
    )  # fmt: skip
    Qwen3Model(config).save_pretrained(path / "text_encoder")


def many_chunks(path: Path) -> None:
    png = saved("PNG")
    empty = struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    path.write_bytes(png[:33] + empty * 5_000_000 + png[33:])


def many_comments(path: Path) -> None:
    jpeg = saved("JPEG")
    path.write_bytes(jpeg[:2] + b"\xff\xfe\0\x02" * 10_000_000 + jpeg[2:])


def many_blocks(path: Path) -> None:
    path.write_bytes(saved("GIF")[:-1].replace(b",", b"!\xfe" + b"\1a" * 20_000_000 + b"\0,", 1))


def many_strips(path: Path) -> None:
    count = 7_000_000
    tags = [(256, 1, 64), (257, 1, 64), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, 400), (277, 1, 1), (278, 1, 1),
            (279, count, 400 + 4 * count)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, values, value) for tag, values, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    path.write_bytes(head.ljust(400, b"\0") + struct.pack("<I", 300) * count + struct.pack("<I", 64) * count)


def saved(form: str) -> bytes:
    """A small picture in this format."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, form)
    return buffer.getvalue()


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
    png = saved("PNG")
    body = b"zTXt" + b"a\0\0" + zlib.compress(bytes(1_000_000_000))
    text = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(png[:33] + text + png[33:])


def large_canvas(path: Path) -> None:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 16, 16, 0) + b"\x02\x02\x4c\x01\x00;"
    path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + frame)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (6_500, 6_500), (200 * number, 0, 0)) for number in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def nested(path: Path) -> None:
    path.write_bytes(b"[" * 1_000_000)


def empty_lists(path: Path) -> None:
    path.write_bytes(b'{"manifest": [' + b"[]," * 10_000_000 + b"0]}")


def list_of_lists(path: Path) -> None:
    (path / "_manifests").mkdir(parents=True)
    empty_lists(path / "_manifests" / "0.json")


def doubling(path: Path) -> None:
    path.mkdir()
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    (path / "tokenizer.json").write_text(json.dumps({"normalizer": {"type": "Sequence", "normalizers": [step] * 30}}))


def endless_words(path: Path) -> None:
    path.mkdir()
    (path / "vocab.json").touch()
    os.truncate(path / "vocab.json", 20_000_000_000)


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
    ("a .pt that names os.system and calls nothing", "w.pt", said(b"cos\nsystem\n"), WORD),
    ("a .pt that names it by STACK_GLOBAL", "w.pt", said(b"X\x02\0\0\0osX\x06\0\0\0system\x93"), WORD),
    ("a .pt nested 100,000 deep", "w.pt", said(b"]" * 100_000 + b"a" * 99_999), WORD),
    (
        "a .pt whose list is doubled 30,000 times by what it remembers",
        "w.pt",
        said(b"]q\0" + b"](h\0h\0eq\0" * 30_000),
        WORD,
    ),
    ("a .pt of 4 million opcodes", "w.pt", said(b"}(" + b"K\0N" * 2_000_000 + b"u"), WORD),
    ("a .pt with a text of 40 MB", "w.pt", said(b"X" + struct.pack("<I", 40_000_000) + b"a" * 40_000_000), WORD),
    ("a .pt that is an archive of 500,000 files", "w.pt", many_entries, WORD),
    ("a sparse tensor of a quintillion numbers", "w.pt", sparse, WORD),
    ("a nested tensor", "w.pt", nested_tensor, WORD),
    (
        "a word's name of 1.9 million characters",
        "w.safetensors",
        large_metadata(f'{{"placeholder":"{"a" * 1_900_000}"}}'),
        WORD,
    ),
    ("metadata of 16 million empty lists", "w.safetensors", large_metadata(f"[{'[],' * 16_000_000}[]]"), WORD),
    ("a chat template that loops for ever", "model", endless_template, TEMPLATE),
    ("a tokenizer that doubles a text 30 times", "tokenizer", doubling, TOKENIZER),
    ("a tokenizer's file of 20 GB that takes no room on the disk", "tokenizer", endless_words, TOKENIZER),
    ("run.json of 10 million empty lists", "run.json", empty_lists, JSON),
    ("a manifest's list of 10 million empty lists", "run", list_of_lists, LISTS),
    ("a pickle that runs a command, as a checkpoint", "c.safetensors", pickle, CHECKPOINT),
    ("JSON nested a million deep, as a checkpoint", "c.safetensors", nested, CHECKPOINT),
    ("a TIFF of 64 pixels a side in one tile of 46,000", "p.tif", one_tile, PICTURE),
    ("a PNG of 5 million chunks", "p.png", many_chunks, PICTURE),
    ("a JPEG of 10 million comments", "p.jpg", many_comments, PICTURE),
    ("a GIF of 20 million blocks", "p.gif", many_blocks, PICTURE),
    ("a TIFF of 7 million strips", "p.tif", many_strips, PICTURE),
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


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def main() -> None:
    print(
        "| what | its bytes | seconds, with its imports | memory it grew by | what came of it |\n|---|---|---|---|---|"
    )
    for what, name, make, (imports, call) in ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            make(path)
            began = time.monotonic()
            grown, raised = peak_of(imports, call, path)
            seconds = time.monotonic() - began
            outcome = raised.replace(str(path), name).replace("|", "/").split(";")[0][:MOST_SAID] or "read"
            if (Path(folder) / "ran").exists():
                outcome = "RAN"
            print(f"| {what} | {size_of(path):,} | {seconds:.1f} | {grown:.0f} MB | {outcome} |", flush=True)
    began = time.monotonic()
    page = page_of(10_000)
    planted = page.count("<script>window.hit")
    print(
        f"| the report of 10,000 concepts, each called `{SCRIPT}` | {len(page.encode()):,} | {time.monotonic() - began:.1f} | | "
        f"{planted} of these scripts in the page |"
    )


if __name__ == "__main__":
    main()
