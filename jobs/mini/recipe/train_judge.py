"""The last stage: the judge of outlines (eval/judges/outline.py), fitted to drawings whose colours say little.

A third of the views wear the mean and spread of colour of some other thing, an impostor of it; the rest keep their colours,
have their channels permuted, are grey, or are one flat colour. Linear discriminants (Fisher 1936; Rao 1948) then look for
what differs from thing to thing and not from view to view: that is the outline, and colour as far as it is left. A thing
is seen in the generator's four art sets and, where they have it, in three others.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from eval.judges.outline import SIDE, WIDTH, Outlines, measured
from jobs.mini.recipe import art
from jobs.mini.recipe.things import things

OTHER_SETS = (
    art.ArtSet("noto-v1", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji 1, (c) Google Inc"),
    art.ArtSet("emojione", "@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "Emojitwo, (c) Emoji One and contributors"),
    art.ArtSet("fluent", "@iconify-json/fluent-emoji", "1.2.7", "MIT", "Fluent Emoji, (c) Microsoft Corporation"),
)
BATCH, SHRINKAGE = 128, 0.1
PERMUTED, GREY, FLAT, IMPOSTOR = 0.2, 0.1, 0.1, 0.35  # shares of a batch; the others keep their colours


def other_drawings(folder: Path) -> Tensor:
    """The drawings of things.tsv's things in OTHER_SETS, uint8 (things, sets, 64, 64, 4); empty where a set has none."""
    packages = [f"{other.package}@{other.version}" for other in OTHER_SETS]
    command = ["npm", "install", "--prefix", str(folder / "others"), "--no-save", "--ignore-scripts", "--no-audit"]
    subprocess.run([*command, "--no-fund", *packages], check=True)
    known = folder / "node_modules" / "@iconify-json" / "noto" / "chars.json"
    names: dict[str, str] = json.loads(known.read_text(encoding="utf-8"))
    drawings = np.zeros((len(things()), len(OTHER_SETS), SIDE, SIDE, 4), np.uint8)
    for column, other in enumerate(OTHER_SETS):
        icons = json.loads((folder / "others" / "node_modules" / other.package / "icons.json").read_text("utf-8"))
        for row, code in enumerate(things().values()):
            bare = code.lower().replace("-fe0f", "")
            icon = next((names[spelling] for spelling in (bare, code.lower(), f"{bare}-fe0f") if spelling in names), "")
            if icon in icons["icons"]:
                drawings[row, column] = np.asarray(art.rasterise(icons, icon, SIDE))
    return torch.from_numpy(drawings)


def fit_judge(named: art.Art, unnamed: art.Art, others: Tensor, rounds: int) -> Outlines:
    """named: of all things, which `others` are further drawings of. unnamed: many more things, to know outlines by.

    rounds: views of each drawing.
    """
    first = torch.from_numpy(np.concatenate([named.scaled(SIDE).sprites, unnamed.scaled(SIDE).sprites]))
    sprites = torch.cat([first, F.pad(others, (0, 0) * 4 + (0, len(unnamed.names)))], 1)
    thing, drawing = torch.nonzero(sprites[..., 3].flatten(2).any(2), as_tuple=True)
    seen, things_seen = [], []
    for number in range(rounds):
        chance = torch.Generator().manual_seed(number)
        for rows in torch.randperm(len(thing), generator=chance).split(BATCH):
            shown = place(sprites[thing[rows], drawing[rows]].permute(0, 3, 1, 2).float() / 255, chance)
            seen.append(measured(page(recoloured(shown, chance), chance) * 2 - 1))
            things_seen.append(thing[rows])
    return discriminants(torch.cat(seen).double(), torch.cat(things_seen))


def discriminants(seen: Tensor, things_seen: Tensor) -> Outlines:
    """The 128 directions of seen (N, 560) in which things lie farthest apart, beside how far their own views do."""
    count = int(things_seen.max()) + 1
    sizes = torch.bincount(things_seen, minlength=count)[:, None]
    means = torch.zeros(count, seen.shape[1], dtype=seen.dtype).index_add_(0, things_seen, seen) / sizes
    apart = seen - means[things_seen]
    within = apart.T @ apart / len(seen)
    within += SHRINKAGE * within.diagonal().mean() * torch.eye(len(within), dtype=seen.dtype)
    strengths, axes = torch.linalg.eigh(within)
    whiten = axes / strengths.sqrt()
    middle = seen.mean(0)
    _, _, directions = torch.linalg.svd((means - middle) @ whiten, full_matrices=False)
    weight = directions[:WIDTH] @ whiten.T
    judge = Outlines()
    with torch.no_grad():
        judge.last.weight.copy_(weight)
        judge.last.bias.copy_(-weight @ middle)
    return judge.eval().requires_grad_(False)


def place(sprites: Tensor, chance: torch.Generator) -> Tensor:
    """RGBA (B, 4, 64, 64) in [0, 1]: mirrored, turned, moved and made smaller, as scenes do; colour times alpha comes out."""
    count = len(sprites)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=chance)

    turn, size = between(-0.25, 0.25) * (between(0, 1) < 0.6), between(0.62, 0.95)
    side = 1 - 2 * (between(0, 1) < 0.5).float()
    cos, sin, room = turn.cos() / size, turn.sin() / size, (1 - size) / size
    x, y = between(-1, 1) * room, between(-1, 1) * room
    maps = torch.stack([torch.stack([cos * side, -sin, x], 1), torch.stack([sin * side, cos, y], 1)], 1)
    weighed = torch.cat([sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]], 1)
    return F.grid_sample(weighed, F.affine_grid(maps, list(weighed.shape), align_corners=False), align_corners=False)


def recoloured(shown: Tensor, chance: torch.Generator) -> Tensor:
    """The same outlines in colours that say less: see the shares above."""
    colour, alpha = shown[:, :3], shown[:, 3:]
    count = len(shown)
    draw = torch.rand(count, 1, 1, 1, generator=chance)
    order = torch.stack([torch.randperm(3, generator=chance) for _ in range(count)])
    permuted = colour.gather(1, order[:, :, None, None].expand_as(colour))
    grey = colour.mean(1, keepdim=True).expand_as(colour)
    flat = alpha * (0.85 * torch.rand(count, 3, 1, 1, generator=chance))
    area = alpha.sum((2, 3), keepdim=True).clamp_min(1)
    mean = colour.sum((2, 3), keepdim=True) / area
    spread = (((colour - mean * alpha).square()).sum((2, 3), keepdim=True) / area).sqrt().clamp_min(0.02)
    worn = torch.randperm(count, generator=chance)
    impostor = ((colour - mean * alpha) / spread * spread[worn] + mean[worn] * alpha).clamp(0, 1).minimum(alpha)
    edges = np.cumsum([PERMUTED, GREY, FLAT, IMPOSTOR])
    for share, other in reversed(list(zip(edges, (permuted, grey, flat, impostor), strict=True))):
        colour = torch.where(draw < float(share), other, colour)
    return torch.cat([colour, alpha], 1)


def page(shown: Tensor, chance: torch.Generator) -> Tensor:
    """On white, or in a third of the cases on a colour; a half blurred a little, as an autoencoder does: (B, 3, 64, 64)."""
    count = len(shown)
    plain = torch.rand(count, 1, 1, 1, generator=chance) < 0.67
    ground = torch.where(plain, torch.ones(()), torch.rand(count, 3, 1, 1, generator=chance))
    pictures = shown[:, :3] + ground * (1 - shown[:, 3:])
    by = torch.rand(count, 1, 1, 1, generator=chance) * (torch.rand(count, 1, 1, 1, generator=chance) < 0.5)
    return torch.lerp(pictures, F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False), by)


def save_judge(judge: Outlines, path: Path) -> None:
    """As fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in judge.state_dict().items()}
    save_file(state, path, {"format": "pt"})
