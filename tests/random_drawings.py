"""Drawings of noise under the names of the real ones, which are downloaded: for what does not depend on how they look."""

import numpy as np

from jobs.mini.recipe import things
from jobs.mini.recipe.art import ART_SETS, Art


def random_drawings() -> Art:
    names = tuple(things.things())
    shape = (len(names), len(ART_SETS), 16, 16, 4)
    return Art(names, np.random.default_rng(0).integers(0, 256, shape, np.uint8).repeat(4, 2).repeat(4, 3))
