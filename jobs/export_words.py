"""Write a run's words in the layout of another program.

  python jobs/export_words.py runs/demo --layout a1111 --output embeddings

The files in a run's words/ already have the layout of diffusers; for a model with several text encoders, a file holds one tensor
for each (clip_l, clip_g, t5). AUTOMATIC1111, ComfyUI and kohya's scripts identify a word by its file name, so each file is named
for its placeholder without the brackets.

Exit codes: 0 written; 2 nothing was written: no such run, no such concept, or two words with the same name.
"""

import argparse
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import get_args

import numpy as np

from jobs.application.phases import phase
from jobs.cli.arguments import add_log, add_storage
from jobs.cli.log import open_log
from pipeline.models.families import family_of
from pipeline.models.find import MINI_SAID
from pipeline.store.catalogue.accepted import public_rows
from pipeline.store.model_spec import WordSpec
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, parse_storage_options
from pipeline.store.word_files import Layout, decode_word, encode_word

WRITTEN, NOT_STARTED = 0, 2
# Of the text encoders whose models AUTOMATIC1111 and ComfyUI load: CLIP L, OpenCLIP H and G, T5 XXL, Gemma 2, Qwen.
WIDTHS = frozenset({768, 1024, 1280, 2048, 2304, 2560, 3584, 4096})
MINI_WIDTH = 128


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_words.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, as given to invert_all.py's --output")
    parser.add_argument("--layout", required=True, choices=get_args(Layout), help="program that reads the files")
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the files, a path or any fsspec URL")
    parser.add_argument(
        "--concept",
        action="append",
        default=[],
        metavar="NAME",
        help="concept to export (may be repeated; default: all)",
    )
    add_storage(parser)
    add_log(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        options = parse_storage_options(arguments.storage_option)
        with phase(log, "exporting") as counts:
            step = counts.of("wrote", "words")
            files = exported(RunFolder(Storage(arguments.run, options)), arguments.layout, arguments.concept)
            output = Storage(arguments.output, options)
            for number, (name, data) in enumerate(files.items(), 1):
                output.write_bytes(name, data)
                step(number, len(files))
    except (StorageError, ValueError) as error:
        log.complain("not exported", f"nothing was exported.\n{error}")
        return NOT_STARTED
    log.say("exported", f"{len(files)} words in {output.url}")
    if said := warning(widths_of(files.values()), arguments.layout):
        log.complain("no model", said)
    return WRITTEN


def widths_of(files: Iterable[bytes]) -> set[int]:
    """The widths of the words' vectors."""
    return {int(vectors.shape[1]) for data in files for vectors in decode_word(data)[1].values()}


def warning(widths: Collection[int], layout: Layout) -> str:
    """What is said of words that no model of the layout's program can load; "" if there is nothing to say.

    >>> warning({768}, "a1111")
    ''
    """
    strange = sorted(set(widths) - WIDTHS)
    if layout == "diffusers" or not strange:
        return ""
    own = f"; {MINI_SAID}" if strange == [MINI_WIDTH] else ""
    return f"{layout} loads no model for words {', '.join(map(str, strange))} numbers wide{own}"


def exported(run: RunFolder, layout: Layout, only: Sequence[str]) -> dict[str, bytes]:
    """File name -> content. Raises ValueError for concepts that the run does not have, and if two files would share a name."""
    family = family_of(run.read_run().get("model_family", ""))
    specs: dict[str, WordSpec] = {}
    words: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for row in public_rows(run, family.encoders):
        vectors = words.setdefault((row["concept"], row["placeholder"]), {})
        vectors[row["text_encoder"]] = np.array(row["vectors"], np.float32)
        specs[row["concept"]] = WordSpec(
            row["concept"], family.architecture_of(vectors), row["kind"], row["resolution"], row["learned"],
            dict(row["stated"] or ()),
        )  # fmt: skip
    if unknown := sorted(set(only) - {concept for concept, _ in words}):
        raise ValueError(f"this run has no word for {', '.join(unknown[:5])}")
    files: dict[str, bytes] = {}
    for (concept, placeholder), vectors in sorted(words.items()):
        if only and concept not in only:
            continue
        name = f"{re.sub(r'[^A-Za-z0-9._-]+', '', placeholder) or concept}.safetensors"
        if name in files:
            raise ValueError(f"two words would share the file name {name}; export them one by one, with --concept")
        files[name] = encode_word(placeholder, vectors, family.word_keys, layout, specs[concept])
    return files


if __name__ == "__main__":
    sys.exit(main())
