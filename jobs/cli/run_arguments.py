"""The options of invert_all.py but for those of training: what is read and written, where it runs, the gate, the limits."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.application.local_paths import absolute_name
from jobs.application.requests import Gate, Limits
from jobs.cli.arguments import add_keep_features, add_metrics, add_storage_and_cluster
from pipeline.models.find import MINI
from pipeline.protocols import PROTOCOLS
from pipeline.settings import DTYPES
from pipeline.store.catalogue.retired import DAYS
from pipeline.store.remote.object_stores import with_private
from pipeline.store.storage import Storage
from pipeline.text_files import lines_of

MOST_NAMES_BYTES = 150_000_000  # the names of a manifest's most rows


def add_input_and_output(what: argparse._ActionsContainer) -> None:
    what.add_argument(
        "--output",
        metavar="URL",
        help="run folder, a path or any fsspec URL (default: beside the manifest or in runs/)",
    )
    what.add_argument(
        "--model",
        type=absolute_name,
        default=MINI,
        metavar="ID|PATH|URL",
        help="model: a diffusers folder or a single file (path, fsspec URL or hub id) (default: the shipped mini)",
    )
    what.add_argument(
        "--clip",
        type=absolute_name,
        default="mini",
        metavar="NAME",
        help="open_clip model that scores the pictures (default: the shipped one)",
    )
    what.add_argument(
        "--protocol",
        default="quick",
        metavar="NAME|FILE",
        help=f"which pictures are drawn and scored: {', '.join(sorted(PROTOCOLS))} or a .toml file (default: %(default)s)",
    )
    add_metrics(what)
    add_keep_features(what)
    what.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="read our column OURS from the manifest's column THEIRS, as in concept=SKU (may be repeated)",
    )
    what.add_argument(
        "--skip-invalid", action="store_true", help="record invalid manifest rows as failures and run the others"
    )
    what.add_argument(
        "--retry-failed", action="store_true", help="retry concepts that already failed with the same inputs"
    )
    what.add_argument(
        "--only-this-manifest",
        action="store_true",
        help="also retire the words that only other manifests of this run folder list",
    )
    what.add_argument(
        "--retired-days",
        type=int,
        default=DAYS,
        metavar="N",
        help="keep the word of a row that is gone for N days, in case the row returns (default: %(default)s)",
    )


def add_placement(where: argparse._ActionsContainer) -> None:
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="maximum number of workers; each holds one copy of the model (default: one a GPU, without GPUs one a CPU core)",
    )
    where.add_argument(
        "--slots",
        type=int,
        metavar="K",
        help="concepts that a worker trains at once (default: as many as raise its speed, measured when it starts)",
    )
    where.add_argument(
        "--checkpoint-gradients",
        default="auto",
        choices=("auto", "on", "off"),
        help="recompute activations in the backward pass to save memory (default: auto, where this makes room for more slots)",
    )
    where.add_argument(
        "--compile",
        default="auto",
        choices=("auto", "off", "blocks", "graph"),
        help="compile the model's blocks, or capture its training step as CUDA graphs (default: auto, on a GPU and for ten minutes "
        "of training or more, what is faster)",
    )
    where.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="G",
        help="GPUs per worker (default: 1 if the cluster has GPUs, else 0)",
    )
    where.add_argument(
        "--cpus-per-worker",
        type=float,
        metavar="C",
        default=1,
        help="CPU cores per worker, and its number of torch threads (default: %(default)s)",
    )
    where.add_argument(
        "--dtype",
        default="auto",
        choices=DTYPES,
        help="data type of the frozen model (default: bfloat16 on GPUs that support it, else float16; float32 on CPUs)",
    )
    where.add_argument(
        "--text-encoder-dtype",
        default="auto",
        choices=DTYPES,
        help="data type of its text encoders (default: that of the model)",
    )
    where.add_argument(
        "--first-stage-dtype",
        default="auto",
        choices=DTYPES,
        help="data type of its autoencoder (default: float32; with --dtype float16, float16 if the model's config allows it)",
    )
    where.add_argument(
        "--offload-first-stage",
        action="store_true",
        help="keep the autoencoder in main memory while it is not used, which frees GPU memory for more slots",
    )
    where.add_argument(
        "--offload-text-encoders",
        action="store_true",
        help="the same for the text encoders; with --word-place output, which needs them for new sentences only",
    )
    add_storage_and_cluster(where)
    where.add_argument(
        "--shared-filesystem", action="store_true", help="confirm that all nodes see the local output path"
    )


def add_gate(gate: argparse._ActionsContainer) -> None:
    asked = Gate()
    gate.add_argument(
        "--gate",
        action="store_true",
        help="new words are candidates until they are scored and accepted; from then on in every run of this folder",
    )
    gate.add_argument(
        "--word-drop",
        type=float,
        default=asked.word_drop,
        metavar="X",
        help="hold a word back whose reconstruction fell by more than X and than its interval (default: %(default)s)",
    )
    gate.add_argument(
        "--least-covered",
        type=float,
        default=asked.least_covered,
        metavar="X",
        help="hold a word back that is less than X of the way from the untrained word to real pictures (default: %(default)s)",
    )
    gate.add_argument(
        "--night-drop",
        type=float,
        default=asked.night_drop,
        metavar="X",
        help="hold all words learned again back if a fifth of them lost X beyond chance (default: %(default)s)",
    )
    gate.add_argument(
        "--keep-words",
        type=int,
        default=asked.keep_words,
        metavar="K",
        help="earlier accepted words of a concept to keep for --roll-back (default: %(default)s)",
    )


def add_look_ahead(ahead: argparse._ActionsContainer) -> None:
    ahead.add_argument(
        "--plan",
        action="store_true",
        help="show what would be done, by name, with the time it would take; start nothing",
    )
    ahead.add_argument(
        "--price-per-hour",
        type=float,
        metavar="X",
        help="with --plan: price of one worker's hour, to show the money too",
    )


def add_limits(wrong: argparse._ActionsContainer) -> None:
    limits = Limits()
    wrong.add_argument(
        "--accept-failures",
        default="0",
        metavar="N|FILE",
        help="exit 0 though up to N concepts failed, or only those that FILE names, one a line (default: %(default)s)",
    )
    wrong.add_argument(
        "--max-failures", type=int, metavar="N", help="stop, with exit code 3, when more than N concepts have failed"
    )
    wrong.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=limits.checkpoint_seconds,
        metavar="S",
        help="seconds between two checkpoints of a word: the most training that a lost machine costs (default: %(default)s)",
    )
    wrong.add_argument(
        "--stall-seconds",
        type=float,
        default=limits.stall_seconds,
        metavar="S",
        help="give up a worker that finishes no step and no picture for S seconds (default: %(default)s)",
    )
    wrong.add_argument(
        "--concept-seconds",
        type=float,
        metavar="S",
        help="longest time for one attempt at a concept (default: no limit)",
    )
    wrong.add_argument(
        "--placing-seconds",
        type=float,
        default=limits.placing_seconds,
        metavar="S",
        help="give up if the first worker has waited S seconds for a node (default: %(default)s)",
    )


def accepted_of(said: str, options: Mapping[str, Any]) -> int | frozenset[str]:
    """A count, or the names in a file, one a line. Raises ValueError and StorageError."""
    if said.isdecimal():
        return int(said)
    try:
        return frozenset(lines_of(Storage(said, with_private(options)).read_bytes(at_most=MOST_NAMES_BYTES)))
    except ValueError as error:
        raise ValueError(f"--accept-failures {said}: {error}") from None


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """Our column names -> the manifest's. Raises ValueError."""
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and theirs):
            raise ValueError(f"--column {pair}: it takes OURS=THEIRS, as in concept=SKU")
        if columns.setdefault(ours, theirs) != theirs:
            raise ValueError(f"--column {pair}: {ours} is already {columns[ours]}")
    return columns
