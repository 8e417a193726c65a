"""A word's start vectors, and limits on its vectors' length. Both come from the vocabulary's embeddings."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.models.base import Backbone, PromptError
from pipeline.randomness import numpy_generator
from pipeline.records import Concept
from pipeline.settings import InversionSettings

NEAREST = 5  # words whose mean a word starts from


def start_vectors(
    backbone: Backbone,
    concept: Concept,
    settings: InversionSettings,
    nearest: Sequence[str] = (),
    pictured: Mapping[str, np.ndarray] | None = None,
    drawn: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Text encoder -> float32 (V, D), of those in `names`; () for all text encoders.

    "words": the initializer's own tokens, or the vocabulary's mean. "statistics": normal with the vocabulary's mean and
    standard deviation, dimension by dimension. "nearest": the mean of the words `nearest`, which look most like the
    pictures; the initializer where it is (), as in measuring. "pictures": the initializer, moved by the difference that a
    start encoder sees between the pictures (`pictured`, text encoder -> (D,)) and the model's own of the initializer
    (`drawn`): the outline stays the class's and the colours become the concept's. Without `drawn` it is `pictured` for
    every vector, and the initializer where that is None too, as in measuring and for styles. "fitted": what a start file
    makes of the pictures (`pictured`, text encoder -> (V, D)); the initializer where that is None, for kinds that the file has
    no map of. Cross-initialised, "words" are what the text encoder makes of the initializer's tokens.
    Raises PromptError.
    """
    names = names or tuple(backbone.encoders)
    if settings.start == "statistics":
        return {
            name: _like(table, concept, settings.seed, name)
            for name, table in ((name, backbone.vocabulary_vectors(name)) for name in names)
        }
    if settings.start == "nearest" and nearest:
        means = [backbone.initial_vectors(word, 1, names) for word in nearest]
        return {
            name: np.repeat(np.mean([mean[name] for mean in means], axis=0), concept.vectors, axis=0) for name in names
        }
    if settings.start == "pictures" and pictured is not None:
        if drawn is None:
            return {name: np.repeat(pictured[name][None], concept.vectors, axis=0) for name in names}
        own = backbone.initial_vectors(concept.initializer, concept.vectors, names)
        return {name: own[name] + (pictured[name] - drawn[name]) for name in backbone.encoders}
    if settings.start == "fitted" and pictured is not None:
        return {name: _fitting(backbone, name, pictured[name]) for name in names}
    if settings.cross_initialised:
        crossed = backbone.output_vectors(concept.initializer, concept.vectors)
        return {name: crossed[name] for name in names}
    return backbone.initial_vectors(concept.initializer, concept.vectors, names)


def _fitting(backbone: Backbone, name: str, vectors: np.ndarray) -> np.ndarray:
    wide = backbone.word_widths[name]
    if vectors.shape[1] != wide:
        raise PromptError(
            f"the start file makes vectors of {vectors.shape[1]:,} numbers for {name}, and the model's have {wide:,}; "
            "make another with jobs/fit_starts.py"
        )
    return vectors.astype(np.float32)


def _like(table: np.ndarray, concept: Concept, seed: int, encoder: str) -> np.ndarray:
    generator = numpy_generator(seed, concept.name, f"start {encoder}")
    drawn = generator.standard_normal((concept.vectors, table.shape[1]))
    return (table.mean(0) + table.std(0) * drawn).astype(np.float32)


class NormRule:
    """Holds vectors at their text encoder's usual length (`Backbone.usual_length`), or below `limit` times it; 0 is no limit."""

    def __init__(self, backbone: Backbone, names: Sequence[str], *, fixed: bool, limit: float = 0.0) -> None:
        self.fixed, self.limit = fixed, limit
        self.usual = {name: backbone.usual_length(name) for name in (names if self.fixed or self.limit else ())}

    def bounds(self, name: str, rows: int) -> np.ndarray:
        """float32 (2, rows): the most that each vector of a text encoder may measure, and 1 if it has to measure just that."""
        most = (1.0 if self.fixed else self.limit) * self.usual[name] if self.usual else np.inf
        return np.repeat(np.array([[most], [self.fixed]], np.float32), rows, axis=1)

    def __call__(self, words: Mapping[str, Tensor]) -> None:
        """words: text encoder -> (V, D), changed in place."""
        for name in self.usual.keys() & words.keys():
            hold(words[name], torch.from_numpy(self.bounds(name, len(words[name]))).to(words[name].device))


@torch.no_grad()
def hold(words: Tensor, bounds: Tensor) -> None:
    """Changes vectors (rows, D) in place, of any words. bounds: (2, rows), the `bounds` of each word's rule."""
    most, exactly = bounds.unsqueeze(2).unbind()
    factors = words.norm(dim=1, keepdim=True).clamp_min(1e-12).reciprocal() * most
    words.mul_(torch.where(exactly > 0, factors, factors.clamp_max(1.0)))
