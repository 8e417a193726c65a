"""AdamW (Loshchilov and Hutter 2019) on the words of all slots at once, each row at the rate and step count of its slot.

torch's AdamW has one rate and one step count for a whole tensor. This one has them for each row; on CPUs its results are
bit-identical to torch's.
"""

import numpy as np
import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


def factors(step: int, rate: float, decay: float) -> np.ndarray:
    """float32 (3,), for the step after `step` steps: the factor of the word (weight decay), the step size along the mean
    gradient, and the bias correction under the root of the squares.
    """
    first, second = (1 - beta ** float(step + 1) for beta in BETAS)
    return np.array([1 - rate * decay, -rate / first, second**0.5], np.float32)


@torch.no_grad()
def update(words: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, moves: Tensor) -> None:
    """Changes words and moments in place.

    words, gradient, mean, square: (rows, D). moves: (3, rows), the `factors` of each row.
    """
    shrink, along, root = moves.unsqueeze(2).unbind()
    words.mul_(shrink)
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    words.add_((mean * along) / (square.sqrt() / root).add_(EPSILON))
