"""CLIP's vocabulary without a network: open_clip ships the merges that it follows from.

Of every tokenizer of Stable Diffusion 1.x, 2.x and XL the vocabulary is the same: 256 bytes, 256 bytes at the end of a word, 48,894
merged pairs, and the two special tokens.
"""

import gzip
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

MERGES = "bpe_simple_vocab_16e6.txt.gz"
WORDS = 49_408
# Bytes that are written as the character of their number; the others are written as characters from 256 on.
PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
END_OF_WORD = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def merges_file() -> Path:
    """Raises FileNotFoundError where open_clip is not installed."""
    spec = importlib.util.find_spec("open_clip")  # to import it would import torch
    if spec is None or spec.origin is None:
        raise FileNotFoundError("open_clip, which ships CLIP's vocabulary, is not installed")
    return Path(spec.origin).parent / MERGES


@cache
def merges() -> tuple[str, ...]:
    """Pairs of tokens with a space between, the most frequent first."""
    lines = gzip.decompress(merges_file().read_bytes()).decode().split("\n")
    return tuple(lines[1 : 1 + WORDS - 2 * 256 - len(SPECIAL)])  # the first line is a version


def vocabulary(pairs: Sequence[str]) -> dict[str, int]:
    """Token -> id."""
    characters = [*map(chr, PRINTABLE), *(chr(256 + index) for index in range(256 - len(PRINTABLE)))]
    tokens = [*characters, *(character + END_OF_WORD for character in characters)]
    tokens += [pair.replace(" ", "") for pair in pairs]
    return {token: index for index, token in enumerate((*tokens, *SPECIAL))}
