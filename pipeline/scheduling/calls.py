"""How many concepts are in flight to a worker: one call for each, from its images to its commit."""

import math
from collections.abc import Sequence


def calls_ahead(slots: int) -> int:
    """How many calls a worker gets beyond its slots, so that images are read while the slots are busy.

    As many more as there are slots may be in flight for words that are already being drawn or committed.
    """
    return 1 + slots // 4


def calls_at_most(slots: int) -> int:
    return slots + calls_ahead(slots) + slots


def even_share(left: int, rooms: Sequence[int]) -> int:
    """The most of the concepts that are left that one worker may hold, so that the last ones do not wait for a busy worker
    while another has nothing to do.

    rooms: how many each worker can hold.

    >>> even_share(4, (5, 3)), even_share(7, (5, 3)), even_share(70, (145, 9)), even_share(1000, (5, 3))
    (2, 4, 61, 5)
    """
    smallest_first = sorted(rooms)
    for place, room in enumerate(smallest_first):
        share = math.ceil(left / (len(smallest_first) - place))
        if share <= room:
            return share
        left -= room
    return smallest_first[-1]
