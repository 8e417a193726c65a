"""Words between two learned words, by spherical interpolation (Shoemake 1985; for directional words Kim et al. 2025)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Vectors = Mapping[str, np.ndarray]  # text encoder -> float32 (V, D)
ALIKE = 1e-6  # an angle in radians below which a chord is as good as its arc


@dataclass(frozen=True, slots=True)
class Blend:
    """A word `placeholder`, to be drawn in prompts: from `first` (share 0) to `second` (share 1)."""

    placeholder: str
    first: str
    second: str
    share: float

    def __str__(self) -> str:
        return f"{self.placeholder}={self.first}:{self.second}:{self.share:g}"


def read_blend(text: str) -> Blend:
    """Reads "<new>=<a>:<b>:0.5". Raises ValueError."""
    placeholder, _, rest = text.partition("=")
    try:
        first, second, share = rest.split(":")
        blend = Blend(placeholder.strip(), first.strip(), second.strip(), float(share))
    except ValueError:
        raise ValueError(
            f"{text}: expected a new word, two learned ones and a share, as in <new>=<a>:<b>:0.5"
        ) from None
    if not blend.placeholder or any(map(str.isspace, blend.placeholder)):
        raise ValueError(f"{text}: the new word before = is {blend.placeholder!r}; it must be one word, such as <new>")
    if not 0 <= blend.share <= 1:
        raise ValueError(f"{text}: the share is {blend.share:g}; it must be from 0 to 1")
    return blend


def blended(blend: Blend, words: Mapping[str, Vectors]) -> dict[str, np.ndarray]:
    """The vectors of a blend of two of `words`, found in any case.

    Raises ValueError for a word that is not there, a new one that is, and words of other shapes or text encoders.
    """
    known = {placeholder.lower(): placeholder for placeholder in words}
    if blend.placeholder.lower() in known:
        raise ValueError(
            f"{blend}: there is a word {known[blend.placeholder.lower()]} already; name the blend otherwise"
        )
    if missing := [name for name in (blend.first, blend.second) if name.lower() not in known]:
        raise ValueError(f"{blend}: there is no word {missing[0]}; there are {', '.join(sorted(words)[:10])}")
    first, second = (words[known[name.lower()]] for name in (blend.first, blend.second))
    if {name: value.shape for name, value in first.items()} != {name: value.shape for name, value in second.items()}:
        raise ValueError(
            f"{blend}: {blend.first} has {_shapes(first)}, {blend.second} has {_shapes(second)}; both must have the same"
        )
    try:
        return {name: slerp(first[name], second[name], blend.share) for name in first}
    except ValueError as error:
        raise ValueError(f"{blend}: {error}") from None


def _shapes(word: Vectors) -> str:
    return " and ".join(f"{len(value)} vectors for {name}" for name, value in sorted(word.items()))


def slerp(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """float32 (V, D), row by row: the direction goes along the shorter arc at an even pace, the length along a straight line.

    Raises ValueError for rows of opposite directions, between which no arc is the shortest.
    """
    rows = [_between(one, other, share) for one, other in zip(first.astype(float), second.astype(float), strict=True)]
    return np.stack(rows).astype(np.float32)


def _between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    straight = (1 - share) * first + share * second
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    if not all(lengths):  # one of no direction
        return straight
    one, other = first / lengths[0], second / lengths[1]
    # Kahan's formula: unlike arccos, it is exact for small angles too.
    angle = 2 * np.arctan2(np.linalg.norm(one - other), np.linalg.norm(one + other))
    if np.pi - angle < ALIKE:
        raise ValueError("two of their vectors point in opposite directions, so that nothing is between them")
    if angle < ALIKE:
        return straight
    direction = (np.sin((1 - share) * angle) * one + np.sin(share * angle) * other) / np.sin(angle)
    return ((1 - share) * lengths[0] + share * lengths[1]) * direction
