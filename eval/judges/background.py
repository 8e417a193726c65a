"""Pictures with their background made white, for an image similarity that the background has no part in.

A training image's own mask decides where it has one, and the judge's patches elsewhere: a patch belongs to the concept if its
features are nearer to the mean of the concept's patches in the training images than to that of their background. Without masks,
these means come from the judge alone: background is what is at the border of the training images, the concept the half of all
their patches that is least like it.
"""

import typing
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from eval.judges.judge import Features, Picture

HALF = 128  # of a mask's 255


@typing.runtime_checkable
class PatchScorer(typing.Protocol):
    """A judge that has features of a picture's patches as well."""

    def encode_images(self, pictures: Sequence[Picture]) -> Features: ...

    def encode_patches(self, pictures: Sequence[Picture]) -> Features:
        """-> (N, G, G, D), rows of patches from the top, vectors of length one."""
        ...


def without_background(
    training: Sequence[Image.Image],
    masks: Sequence[Image.Image | None],
    pictures: Sequence[Image.Image],
    scorer: PatchScorer,
) -> tuple[Features, Features]:
    """Features of the training images (M, D) and of the pictures (N, D), all on white.

    masks: of the training images, 255 where the concept is; the judge decides where one is None.
    """
    patches = scorer.encode_patches(training)
    side = patches.shape[1]
    if all(masks):
        inside = np.stack(
            [np.asarray(each.resize((side, side), Image.Resampling.BOX)) >= HALF for each in masks if each]
        )
    else:
        inside = _least_like_the_border(patches)
    concept, background = (_mean_direction(patches[where]) for where in (inside, ~inside))

    def cut_out(picture: Image.Image, own: Features) -> Image.Image:
        return _on_white(picture, Image.fromarray(np.uint8(255) * (own @ concept > own @ background)))

    alone = [
        _on_white(picture, mask) if mask else cut_out(picture, own)
        for picture, mask, own in zip(training, masks, patches, strict=True)
    ]
    drawn = [cut_out(*each) for each in zip(pictures, scorer.encode_patches(pictures), strict=True)]
    features = scorer.encode_images([*alone, *drawn])
    return features[: len(alone)], features[len(alone) :]


def _least_like_the_border(patches: Features) -> npt.NDArray[np.bool_]:
    border = np.ones(patches.shape[1:3], bool)
    border[1:-1, 1:-1] = False
    alike = patches @ _mean_direction(patches[:, border])
    least: npt.NDArray[np.bool_] = alike < np.median(alike)
    return least


def _mean_direction(vectors: Features) -> Features:
    """(..., D) -> (D,), of length one; zeros if there are none."""
    mean = vectors.reshape(-1, vectors.shape[-1]).astype(np.float64).sum(axis=0)
    unit: Features = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return unit


def _on_white(picture: Image.Image, mask: Image.Image) -> Image.Image:
    white = Image.new("RGB", picture.size, "white")
    return Image.composite(picture, white, mask.resize(picture.size, Image.Resampling.NEAREST))
