"""When a word has converged.

The loss of a training step is too noisy to tell, because its noise and timesteps differ each time. On a fixed batch it falls
and then levels off (Voronov et al., "Is This Loss Informative?", NeurIPS 2023). Two rules decide when:

    dvar      theirs: the variance of the last values, over a window of 310 steps, is small beside the variance of all. Their
              code looks at four pictures after every step; ours looks at eight, every 12 x 8 / (pictures a step) steps
    settled   ours: since the last look but one, so for half of the steps so far, next to nothing of the whole fall was
              won. It looks after 6, 12, 24, 48, ... steps, and waits for a quarter of the budget, as a loss that has not
              begun to fall looks like one that has ended. Of the words looked at, the one of the lowest loss is kept
"""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.settings import EarlyStop

WINDOW = 310  # steps
THRESHOLD = 0.15
VALIDATION_IMAGES = 8
FIRST_LOOK, TOLERANCE, FEWEST_LOOKS, EARLIEST = 6, 0.05, 3, 1 / 4


def is_look(step: int, rule: EarlyStop, batch_size: int) -> bool:
    """Whether the rule looks at the fixed batch after that many steps, of which there is at least one.

    >>> [step for step in range(1, 100) if is_look(step, "settled", 4)], is_look(24, "dvar", 4), is_look(24, "off", 4)
    ([6, 12, 24, 48, 96], True, False)
    """
    if rule == "dvar":
        return step % look_every(batch_size) == 0
    return rule == "settled" and step % FIRST_LOOK == 0 and (step // FIRST_LOOK).bit_count() == 1


def look_every(batch_size: int) -> int:
    """Steps from one of DVAR's looks at the fixed batch to the next, so that looking takes less than a twentieth of the time.

    A look is a forward pass of the batch; a step goes back as well, and takes about twice as long a picture.

    >>> look_every(4), look_every(1)
    (24, 96)
    """
    return math.ceil(12 * VALIDATION_IMAGES / batch_size)


def window_of(every: int) -> int:
    """The number of looks, one every `every` steps, that fill the published window; at least two, for a variance.

    >>> window_of(24)
    12
    """
    return max(2, WINDOW // every)


def has_converged(losses: Sequence[float], *, window: int, threshold: float = THRESHOLD) -> bool:
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


def has_settled(losses: Sequence[float], *, tolerance: float = TOLERANCE) -> bool:
    """True when the last loss is lower than all before by at most `tolerance` of the whole fall, or not lower at all.

    losses: of the fixed batch, oldest first, the first one before any training. False for fewer than three looks after
    that one, for a loss that never fell, and for one that is no number.

    >>> has_settled([1.0, 0.6, 0.4, 0.3]), has_settled([1.0, 0.4, 0.31, 0.31, 0.3, 0.3])
    (False, True)
    """
    if len(losses) <= FEWEST_LOOKS or not np.isfinite(losses).all():
        return False
    fall = losses[0] - min(losses)
    return fall > 0 and min(losses[:-1]) - losses[-1] <= tolerance * fall
