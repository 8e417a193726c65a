"""Directional Textual Inversion (Kim et al. 2025, arXiv 2512.13672) of all slots at once: a word learns its direction only.

Every vector stays as long as its anchor. Its direction on the unit sphere takes steps of Riemannian gradient descent, and a von
Mises-Fisher prior draws it towards the anchor's direction. A step is as long as its rate whatever the gradient's length, so
that no optimiser state is needed.
"""

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-8


def turns(rate: float, concentration: float, rows: int, vectors: int) -> np.ndarray:
    """float32 (2, rows): each row's rate and the prior's kappa. A picture's own word, from row `vectors` on, has no prior."""
    drawn = np.where(np.arange(rows) < vectors, concentration, 0.0)
    return np.stack([np.full(rows, rate), drawn]).astype(np.float32)


@torch.no_grad()
def update(words: Tensor, gradient: Tensor, anchors: Tensor, row_turns: Tensor) -> None:
    """Changes words in place. A row of rate 0 stays as it is, and so does one without a gradient: no prompt held it.

    words, gradient, anchors: (R, D); no row of words or anchors is 0. row_turns: (2, R), the `turns` of the rows.
    """
    rate, concentration = row_turns.unsqueeze(2).unbind()
    lengths, direction = _length(anchors), words / _length(words)
    slope = lengths * gradient - concentration * (anchors / lengths)
    tangent = slope - (slope * direction).sum(1, keepdim=True) * direction
    turned = direction - rate * (tangent / (_length(tangent) + EPSILON))
    moves = (rate > 0) & gradient.ne(0).any(1, keepdim=True)
    words.copy_(torch.where(moves, turned * (lengths / _length(turned)), words))


def _length(rows: Tensor) -> Tensor:
    return rows.square().sum(1, keepdim=True).sqrt()
