"""A judge of pictures of the mini model's world that weighs outline as a person does: the name "outline".

A CLIP that learned from captions finds a patch of the right colours a good owl; a person does not. This judge measures how much
of an edge runs in each of eight directions in each of 16 x 16 places (after Dalal and Triggs 2005), and the colours there. A small
convolutional network makes features of that which are alike for drawings of one thing in whatever colours, and unlike those of a
shapeless patch in the same colours (jobs/mini/recipe/train_judge.py). It shares neither weights nor drawings with the generator,
and reads no texts.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from eval.judges.clip import BATCH
from eval.judges.judge import OUTLINE, Features, Picture

WEIGHTS = Path(__file__).parents[2] / "pipeline" / "mini" / "judge" / "outline.safetensors"
SIDE, WIDTH = 32, 128  # pixels; numbers in a feature
DIRECTIONS, PLACES = 8, 16
WIDTHS = (32, 64, 128)  # channels at 16, 8 and 4 places
FAINT = 0.15  # a slope of [-1, 1] over two pixels: an edge this faint counts half


class _Block(nn.Module):
    """Two convolutions beside a shortcut; halves the side where it widens."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        stride = 1 if inside == outside else 2
        self.first, self.second = nn.GroupNorm(8, inside), nn.GroupNorm(8, outside)
        self.into = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.out = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.beside = nn.Conv2d(inside, outside, 2, 2, bias=False) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(F.silu(self.second(self.into(F.silu(self.first(x))))))
        return y + (x if self.beside is None else self.beside(x))


class Outlines(nn.Module):
    """Pictures (B, 3, 32, 32) in [-1, 1] -> features (B, 128) of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(DIRECTIONS + 3, WIDTHS[0], 3, 1, 1, bias=False)
        pairs = [pair for wide, wider in itertools.pairwise(WIDTHS) for pair in ((wide, wider), (wider, wider))]
        self.blocks = nn.Sequential(*(_Block(*pair) for pair in pairs))
        self.norm = nn.GroupNorm(8, WIDTHS[-1])
        self.last = nn.Linear(WIDTHS[-1] * 4 * 4, WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = F.silu(self.norm(self.blocks(self.stem(edges_and_colours(pictures)))))
        return F.normalize(self.last(seen.flatten(1)).float(), dim=-1)


@torch.no_grad()
def edges_and_colours(pictures: Tensor) -> Tensor:
    """(B, 8 + 3, 16, 16): the square roots of eight directions' edges, however strong their contrast, and the mean colours."""
    down = F.pad(pictures[:, :, 2:] - pictures[:, :, :-2], (0, 0, 1, 1))
    across = F.pad(pictures[..., 2:] - pictures[..., :-2], (1, 1))
    strength, steepest = (down.square() + across.square()).max(1, keepdim=True)  # over the colour channels
    down, across, length = down.gather(1, steepest), across.gather(1, steepest), strength.sqrt() + 1e-6
    angles = torch.arange(DIRECTIONS, device=pictures.device)[:, None, None] * math.pi / DIRECTIONS
    along = ((across * angles.cos() + down * angles.sin()) / length).square()
    edges = length / (length + FAINT) * along * along * along
    return torch.cat([F.avg_pool2d(edges, SIDE // PLACES).sqrt() * 3 - 1, F.avg_pool2d(pictures, SIDE // PLACES)], 1)


class OutlineScorer:
    """The judge in fp32, called as the other judges of pictures are."""

    name = OUTLINE

    def __init__(self, weights: Path = WEIGHTS) -> None:
        """Raises FileNotFoundError, and safetensors' error for a damaged file."""
        self._model = Outlines()
        self._model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        self._model.eval().requires_grad_(False)
        self.fingerprint = hashlib.sha256(weights.read_bytes()).hexdigest()

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        """Pictures, PIL or uint8 (H, W, 3), of any sizes -> float32 (N, 128), rows of length one."""
        features = [np.empty((0, WIDTH), np.float32)]
        for start in range(0, len(pictures), BATCH):
            batch = np.stack([_small(picture) for picture in pictures[start : start + BATCH]])
            features.append(self._model(torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy())
        return np.concatenate(features)


def _small(picture: Picture) -> np.ndarray:
    opened = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return np.array(opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
