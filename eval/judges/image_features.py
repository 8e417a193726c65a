"""Features of pictures for a start file's maps (--start FILE), and the digest of the CLIP that they come from.

Made on the driver, which imports no torch, and sent to the workers, which load the CLIP when the first concept needs it.
"""

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from eval.judges.clip import OpenClipScorer


class ImageFeatures:
    """clip: a name for load_clip. device: where the CLIP runs."""

    def __init__(self, clip: str, device: str) -> None:
        self.clip, self.device = clip, device
        self._scorer: OpenClipScorer | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ImageFeatures"], tuple[str, str]]:
        return ImageFeatures, (self.clip, self.device)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pictures uint8 (N, R, R, 3) -> float32 (N, F), rows of length one."""
        from eval.judges.clip import load_clip

        with self._lock:
            if self._scorer is None:
                self._scorer = load_clip(self.clip, self.device)
            return self._scorer.encode_images(list(pixels))


def clip_fingerprint(clip: str) -> str:
    """Of the CLIP with this name. Raises ValueError and FileNotFoundError, as load_clip does."""
    from eval.judges.clip import load_clip

    return load_clip(clip).fingerprint
