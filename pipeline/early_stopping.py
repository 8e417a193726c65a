"""When a word has converged: DVAR (Voronov et al., "Is This Loss Informative?", NeurIPS 2023, section 3.3).

The loss of a training step says nothing, as its noise and timesteps differ each time. On a fixed batch it falls and
then levels off; training stops when the variance of its last values is small beside the variance of all of them.
"""

from collections.abc import Sequence

import numpy as np

WINDOW = 310  # steps
THRESHOLD = 0.15
EVERY = 10  # the fixed batch is looked at every so many steps: at each step it would cost a third of the time


def has_converged(losses: Sequence[float], *, window: int = WINDOW // EVERY, threshold: float = THRESHOLD) -> bool:
    """True when var(last `window`) / var(all) < `threshold`.

    losses: of the fixed batch, oldest first. False until the window has filled, and for a loss that never moved.

    >>> falling, level = [1.0, 0.8, 0.6, 0.4], [0.21, 0.2, 0.21, 0.2]
    >>> has_converged(falling, window=3), has_converged(falling + level, window=3)
    (False, True)
    """
    if len(losses) <= window:
        return False
    # Equal losses have a variance of exactly 0 only when their mean is free of rounding.
    return float(np.ptp(losses)) > 0 and float(np.var(losses[-window:]) / np.var(losses)) < threshold
