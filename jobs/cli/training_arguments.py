"""The options that change a word, spelled as invert_all.py takes them, and the settings they become."""

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
    Schedule,
    SettingError,
    Start,
    Timesteps,
)
from pipeline.store.remote.object_stores import with_private
from pipeline.store.storage import Storage
from pipeline.text_files import MOST_TEXT_BYTES, sentences_of_file
from pipeline.training.recipes import PUBLISHED, RECIPES, recipe_of

# Option -> field of InversionSettings, type and what is shown for its value, help.
NUMBERS: tuple[tuple[str, str, type, str, str], ...] = (
    ("--steps", "steps", int, "N", "budget of optimiser steps; 0 takes the words as they start"),
    ("--learning-rate", "learning_rate", float, "X", "of AdamW, never rescaled"),
    ("--warmup-steps", "warmup_steps", int, "N", "the rate rises over so many steps first"),
    ("--weight-decay", "weight_decay", float, "X", "of AdamW; it shrinks the word itself"),
    ("--batch-size", "batch_size", int, "B", "pictures a step"),
    ("--seed", "seed", int, "S", "of every random draw"),
    ("--progressive", "progressive", float, "SHARE", ("of the budget between a word's vectors: the first is trained alone, "
     "then the second joins it, ...; the paper's baseline is 0.4 with --vectors 3")),
    ("--per-image-words", "per_image", float, "SHARE", ("of the prompts that also hold a word of the picture's own, thrown "
     "away in the end; the paper's baseline is 0.25")),
    ("--regularisation", "regularisation", float, "X", "weight of the squared distance to the initializer's vectors"),
    ("--min-snr", "min_snr", float, "GAMMA", "weigh timesteps by min(SNR, gamma); 5 is usual, 0 for none"),
    ("--norm-limit", "norm_limit", float, "X", "vectors at most so many times as long as the vocabulary's mean; 0 for none"),
    ("--mask-background", "background", float, "X", "weight of what a mask leaves out, the concept's being 1"),
)  # fmt: skip
CHOICES: tuple[tuple[str, str, Any, str], ...] = (
    ("--schedule", "schedule", Schedule, "the rate after the warm-up: linear and cosine fall to 0 at the budget's end"),
    ("--crop", "crop", CropMode, "how a picture becomes square; pad adds white bars, squash is what the authors' code does"),
    ("--early-stop", "early_stop", EarlyStop, "when a word has converged: our rule, that of Voronov et al. 2023, or none"),
    ("--start", "start", Start, ("from which vectors: the initializer's words, noise with the vocabulary's mean and standard "
     "deviation, the words that --clip finds nearest to the pictures, or, for objects, the initializer's moved by what the "
     "model's own start encoder sees in the pictures (mini has one)")),
    ("--masks", "masks", Masks, "learn only what a mask shows: the pictures' own transparency, or NAME.mask.png beside NAME.jpg"),
    ("--flow-times", "flow_times", FlowTimes, ("how often a rectified flow (Stable Diffusion 3, Flux, ...) is trained at which "
     "time; other models ignore it")),
    ("--timesteps", "timesteps", Timesteps, "of a step's pictures: spread over all times, or each drawn by itself, as published"),
    ("--norm", "norm", Norm, "vocabulary: every vector stays as long as the vocabulary's mean"),
)  # fmt: skip


def add_training(parser: argparse._ActionsContainer) -> None:
    for option, field, kind, shown, said in NUMBERS:
        parser.add_argument(option, dest=field, type=kind, metavar=shown, help=f"{said} ({_default(field)})")
    for option, field, choices, said in CHOICES:
        parser.add_argument(option, dest=field, choices=get_args(choices), help=f"{said} ({_default(field)})")
    parser.add_argument(
        "--resolution", type=int, metavar="R", help="side of the training pictures in pixels (default: the model's own)"
    )
    parser.add_argument(
        "--no-flip", action="store_true", help="do not mirror training pictures: for writing, or left and right hands"
    )
    parser.add_argument(
        "--templates",
        metavar="FILE",
        help="sentences to train in, one a line with {} for the word (default: the paper's)",
    )
    parser.add_argument(
        "--captions",
        action="store_true",
        help="NAME.txt beside NAME.jpg is its sentence, with {} for the word; without one, a picture has the templates",
    )
    parser.add_argument(
        "--cross-initialisation",
        dest="cross_initialised",
        action="store_true",
        help="start from what the text encoder makes of the initializer (Pang et al. 2023)",
    )
    parser.add_argument(
        "--encoders",
        metavar="KEY,...",
        help="text encoders that the word is learned in, such as t5,clip_l; the others read its placeholder as plain text "
        "(default: all)",
    )
    parser.add_argument(
        "--vectors", type=int, default=1, metavar="V", help="of rows that do not say how many (default: %(default)s)"
    )
    parser.add_argument(
        "--initializer", metavar="TEXT", help="of rows that name neither an initializer nor a class (default: none)"
    )


def _default(field: str) -> str:
    said = f"default: {getattr(PUBLISHED, field)}"
    others = {
        name: value for name, each in RECIPES.items() if (value := getattr(each, field)) != getattr(PUBLISHED, field)
    }
    return ", ".join([said, *(f"{value} for {name}" for name, value in others.items())])


def settings_of(arguments: argparse.Namespace, options: Mapping[str, Any]) -> InversionSettings:
    """What was given, and for the rest the model's recipe (pipeline/training/recipes.py).

    options: for the store that the file of templates is in. Raises ValueError and StorageError.
    """
    option_of: dict[str, str] = {each[1]: each[0] for each in NUMBERS} | {each[1]: each[0] for each in CHOICES}
    given = {field: value for field in option_of if (value := getattr(arguments, field)) is not None}
    if arguments.cross_initialised:
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


def _templates(url: str | None, options: Mapping[str, Any]) -> tuple[str, ...]:
    if url is None:
        return ()
    data = Storage(url, with_private(options)).read_bytes(at_most=MOST_TEXT_BYTES)
    try:
        templates = tuple(sentences_of_file(data))
    except ValueError as error:
        raise ValueError(f"--templates {url}: {error}") from None
    if not templates:
        raise ValueError(f"--templates {url}: it holds no sentence")
    return templates
