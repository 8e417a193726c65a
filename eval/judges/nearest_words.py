"""Finds the words of a vocabulary that a CLIP rates most similar to a concept's pictures.

Training can start from their vectors (pipeline/training/start_vectors.py).

The object is made on the driver and sent to the workers, which load the CLIP when the first concept needs it.
"""

import threading
from collections.abc import Sequence

import numpy as np

from eval.judges.clip import OpenClipScorer, load_clip
from pipeline.training.start_vectors import NEAREST

# The prompt of CLIP's zero-shot classifiers (Radford et al. 2021, section 3.1.4).
PROMPT = "a photo of a {}"


class NearestWords:
    """clip: a name for load_clip. device: where the CLIP runs."""

    def __init__(self, clip: str, device: str) -> None:
        self.clip, self.device = clip, device
        self._ready: tuple[OpenClipScorer, tuple[str, ...], np.ndarray] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["NearestWords"], tuple[str, str]]:
        return NearestWords, (self.clip, self.device)

    def __call__(self, pixels: np.ndarray, vocabulary: Sequence[str]) -> tuple[str, ...]:
        """The words whose prompts are nearest to the pictures' mean feature, the nearest first. pixels: uint8 (N, R, R, 3).

        The vocabulary's features are computed once per process.
        """
        with self._lock:
            if self._ready is None or self._ready[1] != tuple(vocabulary):
                scorer = load_clip(self.clip, self.device)
                texts = scorer.encode_texts([PROMPT.format(word) for word in vocabulary])
                self._ready = scorer, tuple(vocabulary), texts
            scorer, words, texts = self._ready
            likeness = texts @ scorer.encode_images(list(pixels)).mean(0)
        return tuple(words[place] for place in np.argsort(-likeness, kind="stable")[:NEAREST])
