"""The things in the mini model's training pictures, and those held out from the generator.

About every sixth thing is held out to serve as a new concept; only the scoring CLIP is trained on it.
"""

import functools
import hashlib
from pathlib import Path

HELD_OUT = 60


@functools.cache
def things() -> dict[str, str]:
    """Name -> Unicode code points ("1F431"), in things.tsv's order."""
    lines = Path(__file__).with_name("things.tsv").read_text(encoding="utf-8").splitlines()
    return {name: code for code, name in (line.split("\t") for line in lines)}


@functools.cache
def held_out_things() -> tuple[str, ...]:
    """The things held out from the generator: those with the smallest digests of their names, which no result can influence."""
    return tuple(sorted(things(), key=lambda name: hashlib.sha256(name.encode()).digest())[:HELD_OUT])


def training_things() -> tuple[str, ...]:
    held_out = set(held_out_things())
    return tuple(name for name in things() if name not in held_out)
