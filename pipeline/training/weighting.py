"""Weights of the loss: for parts of a picture, for timesteps, and for the distance to the word's start."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.base import Backbone


def mask_weights(masks: np.ndarray, size: tuple[int, int], background: float) -> Tensor:
    """Weights of the latents' places, float32 (N, 1, h, w) with a mean of 1 for each picture.

    masks: uint8 (N, R, R), 255 where the concept is. size: (h, w). background: weight of the rest beside the concept's 1.
    A place weighs what its pixels weigh on average; that of one picture does not depend on how large its concept is.
    """
    shares = F.adaptive_avg_pool2d(torch.from_numpy(masks)[:, None].float() / 255, size)
    weights = background + (1 - background) * shares
    return weights / weights.mean((1, 2, 3), keepdim=True)


def min_snr_weights(backbone: Backbone, timesteps: Tensor, gamma: float) -> Tensor:
    """float32 (B,): what each timestep weighs: Hang et al. 2023, Efficient Diffusion Training via Min-SNR Weighting.

    min(SNR, gamma) / SNR for a model that predicts the noise, and min(SNR, gamma) / (SNR + 1) for one that predicts the
    velocity, whose loss weighs a timestep by SNR + 1 already.
    """
    ratio = backbone.signal_to_noise(timesteps)
    return ratio.clamp_max(gamma) / (ratio + 1 if backbone.predicts_velocity else ratio)


def distance(words: Mapping[str, Tensor], anchors: Mapping[str, Tensor], vectors: Tensor, weights: Tensor) -> Tensor:
    """Squared distance of a vector to its anchor, weighed, the mean over a word's vectors, the sum over all else: a scalar.

    words, anchors: text encoder -> (R, D). vectors, weights: (R,), of each row's word.
    Each vector has its own anchor: a matrix of all products would also pull them together.
    """
    squares = [(words[name] - anchor).square().sum(1) / vectors * weights for name, anchor in anchors.items()]
    return torch.stack(squares).sum()
