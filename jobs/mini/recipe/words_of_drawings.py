"""Makes a word for any drawing, so that a generator trained on three hundred nouns learns to draw other things too.

While the U-Net is trained, some captions call their thing "*", and a second one "+", and the embeddings of these symbols are made
from the things' drawings by one linear map. So the U-Net learns to read a whole space of words instead of a list of nouns, and
Textual Inversion, which looks for a point of that space, finds one. The map is shipped beside the U-Net, as its start encoder.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jobs.mini.recipe.art import Art

SYMBOLS = ("*", "+")  # for a thing, and for the second of two
ENCODER = "text_encoder"  # of the pipeline: whose words these are
SIDE = 16  # pixels: a drawing is seen this small
UNCERTAINTY = 0.15  # standard deviations of noise on a word, so that its neighbourhood means the same


class WordsOfDrawings(nn.Module):
    """Maps drawings (..., 768) to words (..., D) that are distributed as the nouns (N, D) of the vocabulary are.

    Starts from the drawings' principal components, the later ones dampened, and is trained with the U-Net.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, drawings: Tensor, nouns: Tensor) -> None:
        super().__init__()
        middle = drawings.mean(0)
        _, strengths, components = torch.linalg.svd(drawings - middle, full_matrices=False)
        width = nouns.shape[1]
        weight = components[:width] * (len(drawings) ** 0.5 / strengths[:width, None]) ** 0.5
        self.linear = nn.Linear(drawings.shape[1], width)
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(-weight @ middle)
        self.register_buffer("mean", nouns.mean(0))
        self.register_buffer("std", nouns.std(0))

    def forward(self, drawings: Tensor, noise: Tensor) -> Tensor:
        """noise: standard normal (..., D)."""
        mapped = self.linear(drawings)
        word = F.layer_norm(mapped, mapped.shape[-1:]) + UNCERTAINTY * noise
        return self.mean + self.std * word


def save_words(words_of: WordsOfDrawings, path: Path) -> None:
    """As a start encoder, in half precision: pipeline/models/start_encoder.py reads it."""
    kept = {"weight": words_of.linear.weight, "bias": words_of.linear.bias, "mean": words_of.mean, "std": words_of.std}
    save_file({f"{ENCODER}.{name}": value.half().contiguous() for name, value in kept.items()}, path)


def load_words(words_of: WordsOfDrawings, path: Path) -> None:
    """Takes over what save_words has written of a map of the same size."""
    kept = {name.removeprefix(f"{ENCODER}."): value.float() for name, value in load_file(path).items()}
    words_of.load_state_dict({name if name in ("mean", "std") else f"linear.{name}": kept[name] for name in kept})


def small_drawings(art: Art) -> Tensor:
    """Every drawing on white at 16 x 16, float32 (things, drawings, 768) in [-1, 1]; the art's side is a multiple of 16."""
    things, drawings, side = art.sprites.shape[:3]
    rows = []
    for sprite in art.sprites.reshape(-1, side, side, 4):
        alpha = sprite[..., 3:].astype(np.float32) / 255
        page = sprite[..., :3] * alpha + 255 * (1 - alpha)
        rows.append(page.reshape(SIDE, side // SIDE, SIDE, side // SIDE, 3).mean((1, 3)).ravel() / 127.5 - 1)
    return torch.from_numpy(np.stack(rows)).float().view(things, drawings, -1)
