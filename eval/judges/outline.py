"""The mini model's second judge: pictures of this little world, told apart by their outlines more than by their colours.

A CLIP that learned from captions finds a patch of the right colours a good owl; a person does not. This judge centres what
a picture shows, measures how much of an edge runs in each of eight directions in each of 8 x 8 places, and, coarsely, the
colours; and weighs all that by one linear map, under which drawings of a thing lie close together whatever their colours
(linear discriminants, jobs/mini/recipe/train_judge.py). It shares no weights with the generator and reads no text.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from eval.judges.clip import BATCH, Features, Picture

WEIGHTS = Path(__file__).parents[2] / "pipeline" / "mini" / "judge" / "outline.safetensors"
SIDE, DIRECTIONS, WIDTH = 64, 8, 128
MEASURED = DIRECTIONS * 8 * 8 + 3 * 4 * 4
FAINT = 0.15  # a slope of [-1, 1] over two pixels: an edge this faint counts half
SPREAD = 0.6  # of the edges about their middle, in half widths of a picture


class Outlines(nn.Module):
    """Pictures (B, 3, 64, 64) in [-1, 1] -> features (B, 128) of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(MEASURED, WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        return F.normalize(self.last(measured(pictures)), dim=-1)


def measured(pictures: Tensor) -> Tensor:
    """(B, 560): the square roots of 8 directions' edges in 8 x 8 places, and the colours of 4 x 4 places, all centred."""
    centred = _centred(pictures)
    edges = F.avg_pool2d(_edges(centred), SIDE // 8).clamp_min(0).sqrt()
    colours = F.avg_pool2d(centred, SIDE // 4)
    return torch.cat([edges.flatten(1), colours.flatten(1)], 1)


def _slopes(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 1, 64, 64) each: the slope down and across of the colour channel in which it is steepest, and its length."""
    down = F.pad(pictures[:, :, 2:] - pictures[:, :, :-2], (0, 0, 1, 1))
    across = F.pad(pictures[..., 2:] - pictures[..., :-2], (1, 1))
    strength, strongest = (down.square() + across.square()).max(1, keepdim=True)
    return down.gather(1, strongest), across.gather(1, strongest), strength.sqrt() + 1e-6


def _edges(pictures: Tensor) -> Tensor:
    """(B, 8, 64, 64) in [0, 1]: whether an edge runs there in each direction, however strong its contrast."""
    down, across, length = _slopes(pictures)
    angles = torch.arange(DIRECTIONS, device=pictures.device)[:, None, None] * math.pi / DIRECTIONS
    along = ((across * angles.cos() + down * angles.sin()) / length).square()
    return length / (length + FAINT) * along * along * along


def _centred(pictures: Tensor) -> Tensor:
    """Moved and scaled so that the edges' middle is the picture's and their spread the same for all."""
    _, _, length = _slopes(pictures)
    share = length / (length + FAINT)
    share = share / share.sum((2, 3), keepdim=True).clamp_min(1e-6)
    places = torch.linspace(-1, 1, SIDE, device=pictures.device)
    columns, rows = share.sum((1, 2)), share.sum((1, 3))
    x, y = (columns * places).sum(1), (rows * places).sum(1)
    spread = ((columns * (places - x[:, None]).square()).sum(1) + (rows * (places - y[:, None]).square()).sum(1)).sqrt()
    size, none = (spread / SPREAD).clamp(0.5, 1.4), torch.zeros_like(x)
    maps = torch.stack([torch.stack([size, none, x], 1), torch.stack([none, size, y], 1)], 1)
    grid = F.affine_grid(maps, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


class OutlineScorer:
    """The judge in fp32, as the other judges of images are called."""

    name = "outline"

    def __init__(self, weights: Path = WEIGHTS) -> None:
        """Raises FileNotFoundError and safetensors' error for a file that is none."""
        self._model = Outlines()
        state = load_file(weights)
        self._model.load_state_dict({name: value.float() for name, value in state.items()})
        self._model.eval().requires_grad_(False)
        self.fingerprint = hashlib.sha256(weights.read_bytes()).hexdigest()

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        """Pictures, PIL or uint8 (H, W, 3), of any sizes -> float32 (N, 128), rows of length one."""
        found = [np.empty((0, WIDTH), np.float32)]
        for start in range(0, len(pictures), BATCH):
            batch = np.stack([_small(picture) for picture in pictures[start : start + BATCH]])
            found.append(self._model(torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy())
        return np.concatenate(found)


def _small(picture: Picture) -> np.ndarray:
    opened = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return np.array(opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
