"""The options of invert_all.py that change how a word is learned, and the InversionSettings made from them."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from pipeline.settings import (
    CropMode,
    EarlyStop,
    FlowTimes,
    InversionSettings,
    Masks,
    Norm,
    Optimiser,
    Schedule,
    SettingError,
    Start,
    Timesteps,
    WordPlace,
)
from pipeline.store.remote.object_stores import with_private
from pipeline.store.storage import Storage
from pipeline.text_files import MOST_TEXT_BYTES, sentences_of_file
from pipeline.training.recipes import PUBLISHED, RECIPES, VECTORS, recipe_of

# Each row: option, field of InversionSettings, type, metavar, help.
NUMBERS: tuple[tuple[str, str, type, str, str], ...] = (
    ("--steps", "steps", int, "N", "most optimiser steps for a word; 0 keeps its starting vectors"),
    ("--learning-rate", "learning_rate", float, "X", "learning rate of the optimiser; not scaled by the batch size"),
    ("--warmup-steps", "warmup_steps", int, "N", "steps over which the learning rate rises at the start"),
    ("--weight-decay", "weight_decay", float, "X", "weight decay of AdamW; it shrinks the word's vectors"),
    ("--batch-size", "batch_size", int, "B", "pictures per step"),
    ("--seed", "seed", int, "S", "seed of every random draw"),
    ("--progressive", "progressive", float, "SHARE", ("share of the steps after which a word's next vector is added: the "
     "first is trained alone, then the second joins it, ...; the paper's baseline is 0.4 with --vectors 3")),
    ("--per-image-words", "per_image", float, "SHARE", ("share of the prompts that also hold a word learned for that one "
     "picture; these words are discarded at the end; the paper's baseline is 0.25")),
    ("--regularisation", "regularisation", float, "X", "weight of the squared distance to the initializer's vectors"),
    ("--min-snr", "min_snr", float, "GAMMA", "weight timesteps by min(SNR, gamma); 5 is usual, 0 turns it off"),
    ("--norm-limit", "norm_limit", float, "X", "longest vector, in multiples of the vocabulary's mean norm; 0: no limit"),
    ("--concentration", "concentration", float, "KAPPA", ("concentration of the directional optimiser's prior, which draws a "
     "vector's direction towards its initializer's; 0 turns it off")),
    ("--mask-background", "background", float, "X", "loss weight outside the mask; inside it is 1"),
)  # fmt: skip
STARTS = tuple(start for start in get_args(Start) if start != "fitted")  # a file's name stands for that one
CHOICES: tuple[tuple[str, str, Any, str], ...] = (
    ("--schedule", "schedule", Schedule, "learning rate after the warm-up: linear and cosine fall to 0 at the last step"),
    ("--crop", "crop", CropMode, "how a picture becomes square; pad adds white bars, squash is what the authors' code does"),
    ("--early-stop", "early_stop", EarlyStop, "rule that stops a word early: ours, that of Voronov et al. 2023, or none"),
    ("--masks", "masks", Masks, "learn only what a mask shows: the picture's alpha channel, or NAME.mask.png beside NAME.jpg"),
    ("--flow-times", "flow_times", FlowTimes, ("distribution of the times that a rectified flow (Stable Diffusion 3, Flux, ...) "
     "is trained at; other models ignore it")),
    ("--timesteps", "timesteps", Timesteps, "timesteps of a step's pictures: spread evenly, or drawn independently, as published"),
    ("--optimiser", "optimiser", Optimiser, ("directional: only the direction of each vector is learned, at the vocabulary's mean "
     "norm (Kim et al. 2025)")),
    ("--word-place", "word_place", WordPlace, ("output: the word's vectors take the place of the text encoder's output, not of its "
     "input; it reads each sentence once, without a gradient")),
    ("--norm", "norm", Norm, "length of the vectors; vocabulary: always the vocabulary's mean norm"),
)  # fmt: skip


def add_training(parser: argparse._ActionsContainer) -> None:
    for option, field, kind, shown, said in NUMBERS:
        parser.add_argument(option, dest=field, type=kind, metavar=shown, help=f"{said} ({_default(field)})")
    for option, field, choices, said in CHOICES:
        parser.add_argument(option, dest=field, choices=get_args(choices), help=f"{said} ({_default(field)})")
    parser.add_argument(
        "--start",
        metavar="{words,statistics,nearest,pictures}|FILE",
        help="starting vectors: the initializer's words; noise with the vocabulary's mean and standard deviation; the words that "
        "--clip finds nearest to the pictures; for objects, the initializer's words shifted by the model's start encoder, which "
        "looks at the pictures (mini has one); or what a file of jobs/fit_starts.py makes of the pictures "
        f"({_default('start')})",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="learn N words of each concept, each from random draws of its own, and report their spread (default: %(default)s)",
    )
    parser.add_argument(
        "--choose",
        type=int,
        default=1,
        metavar="K",
        help="learn K words of each concept, and make the one public that is best on pictures of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        metavar="R",
        help="side of the square training pictures, in pixels (default: the model's own)",
    )
    parser.add_argument(
        "--no-flip",
        action="store_true",
        help="never mirror training pictures; for concepts with text, or with a left and a right",
    )
    parser.add_argument(
        "--templates",
        metavar="FILE",
        help="file of training sentences, one a line with {} for the word (default: the paper's)",
    )
    parser.add_argument(
        "--captions",
        action="store_true",
        help="train NAME.jpg with the sentence in NAME.txt beside it, with {} for the word; pictures without one use the templates",
    )
    parser.add_argument(
        "--cross-initialisation",
        dest="cross_initialised",
        action="store_true",
        help="start from the text encoder's output for the initializer (Pang et al. 2023)",
    )
    parser.add_argument(
        "--encoders",
        metavar="KEY,...",
        help="text encoders to learn the word in, such as t5,clip_l; the others read its placeholder as plain text "
        "(default: all)",
    )
    parser.add_argument(
        "--vectors",
        type=int,
        metavar="V",
        help=f"vectors per word, for rows that give no number (default: {_default_vectors()})",
    )
    parser.add_argument(
        "--initializer",
        metavar="TEXT",
        help="initializer for rows that give neither an initializer nor a class (default: none)",
    )


def _default(field: str) -> str:
    said = f"default: {getattr(PUBLISHED, field)}"
    others = {
        name: value for name, each in RECIPES.items() if (value := getattr(each, field)) != getattr(PUBLISHED, field)
    }
    return ", ".join([said, *(f"{value} for {name}" for name, value in others.items())])


def _default_vectors() -> str:
    return ", ".join(["1", *(f"{vectors} for {name}" for name, vectors in VECTORS.items())])


def settings_of(arguments: argparse.Namespace, options: Mapping[str, Any]) -> InversionSettings:
    """The options given; the others come from the model's recipe (pipeline/training/recipes.py).

    options: fsspec options of the store that holds the file of templates. Raises ValueError and StorageError.
    """
    option_of: dict[str, str] = {each[1]: each[0] for each in NUMBERS} | {each[1]: each[0] for each in CHOICES}
    given = {field: value for field in option_of if (value := getattr(arguments, field)) is not None}
    if arguments.start:
        given["start"] = "fitted" if start_file_of(arguments) else arguments.start
    if arguments.cross_initialised or arguments.word_place == "output":
        given.setdefault("start", "words")
    templates = _templates(arguments.templates, options)
    try:
        return replace(
            recipe_of(arguments.model),
            resolution=arguments.resolution,
            flip=not arguments.no_flip,
            captions=arguments.captions,
            cross_initialised=arguments.cross_initialised,
            encoders=tuple(key.strip() for key in arguments.encoders.split(",")) if arguments.encoders else (),
            templates=templates,
            start_clip=arguments.clip if arguments.start == "nearest" else "",
            **given,
        )
    except SettingError as error:
        raise ValueError(f"{option_of.get(error.field, f'--{error.field}')}: {error}") from error


def start_file_of(arguments: argparse.Namespace) -> str | None:
    """The file that --start names; None where it names a kind of start or is not given."""
    return None if arguments.start in (None, *STARTS) else str(arguments.start)


def _templates(url: str | None, options: Mapping[str, Any]) -> tuple[str, ...]:
    if url is None:
        return ()
    data = Storage(url, with_private(options)).read_bytes(at_most=MOST_TEXT_BYTES)
    try:
        templates = tuple(sentences_of_file(data))
    except ValueError as error:
        raise ValueError(f"--templates {url}: {error}") from None
    if not templates:
        raise ValueError(f"--templates {url}: the file holds no sentence")
    return templates
