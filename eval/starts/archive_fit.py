"""Fits a start file to an archive of learned words: one ridge for each kind of concept and number of vectors."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.starts.archive import Archive, ArchivedWord, ArchiveError
from eval.starts.ridge import Ridge, fit_ridge
from pipeline.training.start_file import StartFile, StartMap

FEWEST = 10  # concepts that a map is fitted to


@dataclass(frozen=True, slots=True)
class FittedMap:
    """kind, vectors: of the words. concepts: how many. strength: the lambda chosen. explained: the share of the variance of
    words that it explains of concepts which it was not fitted to.
    """

    kind: str
    vectors: int
    concepts: int
    strength: float
    explained: float


@dataclass(frozen=True, slots=True)
class Fit:
    """start: the file. maps: what was fitted. guessed: each word's vectors by a map that was fitted without its concept.

    left_out: (kind, vectors) -> how many concepts, too few for a map.
    """

    start: StartFile
    maps: tuple[FittedMap, ...]
    guessed: tuple[tuple[ArchivedWord, dict[str, np.ndarray]], ...]
    left_out: Mapping[tuple[str, int], int]


def fit_archive(archive: Archive, model: str, model_digest: str, clip: str) -> Fit:
    """Raises ArchiveError where no kind of concept has enough words."""
    groups: dict[tuple[str, int], list[ArchivedWord]] = defaultdict(list)
    for word in archive.words:
        groups[word.key].append(word)
    counts = {key: len({word.concept for word in words}) for key, words in sorted(groups.items())}
    left_out = {key: count for key, count in counts.items() if count < FEWEST}
    if len(left_out) == len(counts):
        said = ", ".join(f"{count} {kind}s of {vectors} vectors" for (kind, vectors), count in left_out.items())
        raise ArchiveError(f"a map takes at least {FEWEST} concepts, and these runs have {said}; give more runs")
    mean: np.ndarray = np.stack([word.feature for word in archive.words]).astype(np.float64).mean(0)
    maps, fitted, guessed = {}, [], []
    for key in counts.keys() - left_out.keys():
        words = sorted(groups[key], key=lambda word: (word.concept, word.run))
        ridge = fit_ridge([word.feature for word in words], _rows(words), [word.concept for word in words])
        shapes = {name: vectors.shape for name, vectors in sorted(words[0].vectors.items())}
        maps[key] = start_maps(ridge, shapes, mean)
        guessed += [
            (word, _split(row, shapes)) for word, row in zip(words, ridge.predicted.astype(np.float32), strict=True)
        ]
        fitted.append(FittedMap(*key, counts[key], ridge.strength, ridge.explained))
    fitted_to = f"{sum(each.concepts for each in fitted)} learned words"
    start = StartFile("", model, model_digest, clip, archive.clip_digest, fitted_to, mean.astype(np.float32), maps)
    return Fit(start, tuple(sorted(fitted, key=lambda each: (each.kind, each.vectors))), tuple(guessed), left_out)


def start_maps(
    ridge: Ridge, shapes: Mapping[str, tuple[int, ...]], mean: np.ndarray, scale: float = 1.0
) -> dict[str, StartMap]:
    """A ridge to all text encoders' vectors, laid out one behind the other, as their maps.

    shapes: text encoder -> (V, D), in that order. mean: what the file takes from a feature. scale: of what is left.
    """
    bias = ridge.bias + scale * (ridge.weight @ (mean - ridge.mean))
    weights = _split(scale * ridge.weight, {name: (*shape, len(mean)) for name, shape in shapes.items()})
    biases = _split(bias, shapes)
    return {name: StartMap(weights[name].astype(np.float32), biases[name].astype(np.float32)) for name in shapes}


def _rows(words: list[ArchivedWord]) -> np.ndarray:
    """(N, O)."""
    return np.stack([np.concatenate([word.vectors[name].ravel() for name in sorted(word.vectors)]) for word in words])


def _split(rows: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The inverse of laying the text encoders' vectors behind one another; only V and D of a shape are counted."""
    parts, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + shape[0] * shape[1]
        parts[name] = rows[begin:end].reshape(shape)
        begin = end
    return parts
