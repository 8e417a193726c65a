"""Which words of a vocabulary look most like a concept's pictures, by a CLIP.

A word can start there (pipeline/training/start_vectors.py).

Made on the driver and sent to the workers, which load the CLIP when the first concept asks for it.
"""

import threading
from collections.abc import Sequence

import numpy as np

from eval.judges.clip import OpenClipScorer, load_clip
from pipeline.training.start_vectors import NEAREST

# As CLIP's zero-shot classifiers have it (Radford et al. 2021, section 3.1.4).
PROMPT = "a photo of a {}"


class NearestWords:
    """clip: as load_clip takes it. device: where it runs."""

    def __init__(self, clip: str, device: str) -> None:
        self.clip, self.device = clip, device
        self._ready: tuple[OpenClipScorer, tuple[str, ...], np.ndarray] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["NearestWords"], tuple[str, str]]:
        return NearestWords, (self.clip, self.device)

    def __call__(self, pixels: np.ndarray, vocabulary: Sequence[str]) -> tuple[str, ...]:
        """pixels: uint8 (N, R, R, 3). The words whose prompts are nearest to the pictures' mean feature, the nearest first.

        The vocabulary's features are computed once a process: for the 30,000 words of CLIP's own, a minute or so of a GPU.
        """
        with self._lock:
            if self._ready is None or self._ready[1] != tuple(vocabulary):
                scorer = load_clip(self.clip, self.device)
                texts = scorer.encode_texts([PROMPT.format(word) for word in vocabulary])
                self._ready = scorer, tuple(vocabulary), texts
            scorer, words, texts = self._ready
            likeness = texts @ scorer.encode_images(list(pixels)).mean(0)
        return tuple(words[place] for place in np.argsort(-likeness, kind="stable")[:NEAREST])
