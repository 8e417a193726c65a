"""The judge of outlines (eval/judges/outline.py), trained on drawings whose colours say little.

A third of the views wear the mean and spread of colour of some other thing, an impostor of it; others have their channels
permuted, their hue turned, are grey, or are silhouettes. As in what a small diffusion model draws, outlines are bent, parts are
missing, edges are soft and colours blotched. Features are taught by a cosine classifier of things (Wang et al. 2018, CosFace),
with one more class: shapeless patches in the colours of a thing, which a diffusion model draws of a word that it has not
understood. The drawings are of art sets that the generator has not seen.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from eval.judges.outline import SIDE, WIDTH, Outlines
from jobs.mini.recipe import art
from jobs.mini.recipe.loop import Schedule, train
from jobs.mini.recipe.things import things

JUDGED_SETS = (
    art.ArtSet("noto-v1", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji 1, (c) Google Inc"),
    art.ArtSet("emojione", "@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "Emojitwo, (c) Emoji One and contributors"),
    art.ArtSet("fluent", "@iconify-json/fluent-emoji", "1.2.7", "MIT", "Fluent Emoji, (c) Microsoft Corporation"),
    art.ArtSet("fxemoji", "@iconify-json/fxemoji", "1.2.2", "Apache-2.0", "FxEmojis, (c) Mozilla"),
)
# Parts of names of icons that differ from others in something which is no outline.
UNTOLD = (
    "skin-tone",
    "flag",
    "keycap",
    "button",
    "oclock",
    "thirty",
    "woman",
    "man-",
    "person-",
    "men-",
    "letter",
    "family",
    "couple",
)
BATCH, SCALE, MARGIN = 128, 16.0, 0.1
PERMUTED, TURNED, GREY, FLAT, IMPOSTOR = 0.12, 0.1, 0.08, 0.1, 0.25  # shares of a batch; the others keep their colours
SHAPELESS = 0.15  # share of a batch
BENT = 0.11  # spread of what moves an outline's points, in half widths of a picture, at most
DAMAGED, SOFTENED, BLOTCHED = 0.25, 0.3, 0.4  # shares of a batch


@dataclass(frozen=True, slots=True)
class Drawings:
    """sprites: uint8 (N, 4, 32, 32), RGBA. things: int64 (N,), which thing each shows. names: of the things, as icons."""

    sprites: Tensor
    things: Tensor
    names: tuple[str, ...]


def load_drawings(folder: Path) -> Drawings:
    """The JUDGED_SETS' drawings of every emoji that two sets draw or things.tsv lists; drawn once, cached in `folder`."""
    cached = folder / "judged.npz"
    if not cached.exists():
        art.fetch_art(folder, JUDGED_SETS)
        read = {each.name: _icons(folder, each) for each in JUDGED_SETS}
        spelled = {name: {icon.replace("-", ""): icon for icon in icons["icons"]} for name, icons in read.items()}
        every = sorted({icon for icons in read.values() for icon in icons["icons"] if _is_told(icon)})
        wanted = {name.replace(" ", "-") for name in things()}
        sets = {icon: sum(icon.replace("-", "") in known for known in spelled.values()) for icon in every}
        names = [icon for icon in every if sets[icon] > 1 or icon in wanted]
        names = list({name.replace("-", ""): name for name in names}.values())
        drawings: list[tuple[int, np.ndarray]] = []
        for each in JUDGED_SETS:
            for thing, name in enumerate(names):
                if (icon := spelled[each.name].get(name.replace("-", ""))) is not None:
                    drawn = np.asarray(art.rasterise(read[each.name], icon, SIDE))
                    drawings.append((thing, drawn.transpose(2, 0, 1)))
        of, sprites = zip(*drawings, strict=True)
        np.savez(cached, sprites=np.stack(sprites), things=np.array(of), names=np.array(names))
    loaded = np.load(cached)
    shown = tuple(str(name) for name in loaded["names"])
    return Drawings(torch.from_numpy(loaded["sprites"]), torch.from_numpy(loaded["things"]), shown)


def _icons(folder: Path, each: art.ArtSet) -> dict:
    read: dict = json.loads((folder / "node_modules" / each.package / "icons.json").read_text("utf-8"))
    return read


def _is_told(name: str) -> bool:
    return not any(part in name for part in UNTOLD)


class Classes(nn.Module):
    """Cosines of features (B, 128) to every thing, and to shapeless patches, last: (B, things + 1)."""

    def __init__(self, things: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(0.1 * torch.randn(things + 1, WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        return features @ F.normalize(self.directions.float(), dim=-1).T


def train_judge(drawings: Drawings, schedule: Schedule, checkpoint: Path) -> Outlines:
    """Trains a new judge, or goes on from `checkpoint`."""
    torch.manual_seed(0)
    judge, classes = Outlines(), Classes(len(drawings.names))
    by_thing = torch.bincount(drawings.things, minlength=len(drawings.names))
    weights = (
        1 / by_thing[drawings.things].double().sqrt()
    )  # things of one drawing are seen less often, but not a quarter

    def loss_at(step: int) -> Tensor:
        chance = torch.Generator().manual_seed(step)
        rows = torch.multinomial(weights, BATCH, replacement=False, generator=chance)
        shown = place(drawings.sprites[rows].float() / 255, chance)
        shapeless = torch.rand(BATCH, generator=chance) < SHAPELESS
        told = recoloured(shown, chance)
        told[shapeless] = melted(shown[shapeless], chance)
        pictures = blotched(on_ground(damaged(told, chance), chance), chance) * 2 - 1
        answers = torch.where(shapeless, len(drawings.names), drawings.things[rows])
        cosines = classes(judge(pictures))
        with torch.autocast("cpu", enabled=False):
            margins = MARGIN * F.one_hot(answers, cosines.shape[1])
            return F.cross_entropy(SCALE * (cosines - margins), answers)

    train(nn.ModuleDict({"judge": judge, "classes": classes}), loss_at, schedule, checkpoint, average=0.98)
    return judge.eval().requires_grad_(False)


def _between(low: float, high: float, count: int, chance: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=chance)


def place(sprites: Tensor, chance: torch.Generator) -> Tensor:
    """RGBA (B, 4, 32, 32) in [0, 1]: mirrored, turned, moved, scaled and bent; colour times alpha comes out."""
    count = len(sprites)
    turn = _between(-0.3, 0.3, count, chance) * (_between(0, 1, count, chance) < 0.5)
    size, wide = _between(0.6, 1.0, count, chance), _between(0.85, 1.15, count, chance)
    side = 1 - 2 * (_between(0, 1, count, chance) < 0.5).float()
    cos, sin, room = turn.cos() / size, turn.sin() / size, (1 - size) / size + 0.06
    x, y = _between(-1, 1, count, chance) * room, _between(-1, 1, count, chance) * room
    maps = torch.stack([torch.stack([cos * side * wide, -sin, x], 1), torch.stack([sin * side, cos, y], 1)], 1)
    weighed = torch.cat([sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]], 1)
    grid = F.affine_grid(maps, list(weighed.shape), align_corners=False)
    return F.grid_sample(weighed, grid + _bends(count, 4, BENT, chance), align_corners=False)


def _bends(count: int, waves: int, by: float, chance: torch.Generator) -> Tensor:
    """A smooth field of displacements (B, 32, 32, 2), in half widths of a picture, of a spread of at most `by`."""
    coarse = torch.randn(count, 2, waves, waves, generator=chance) * _between(0, by, count, chance)[:, None, None, None]
    return F.interpolate(coarse, SIDE, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def melted(shown: Tensor, chance: torch.Generator) -> Tensor:
    """Patches of the same colours that have lost their outline: bent beyond recognition, shuffled, or blurred to a spot."""
    count = len(shown)
    straight = F.affine_grid(torch.eye(2, 3).repeat(count, 1, 1), list(shown.shape), align_corners=False)
    far = torch.randn(count, 2, 5, 5, generator=chance) * _between(0.3, 0.6, count, chance)[:, None, None, None]
    bent = straight + F.interpolate(far, SIDE, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    bent_out = F.grid_sample(shown, bent, align_corners=False)
    cells = shown.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)  # (B, 4, 16, 8, 8): sixteen cells of 8 x 8
    order = torch.rand(count, 16, generator=chance).argsort(1)[:, None, :, None, None].expand_as(cells)
    shuffled = cells.gather(2, order).unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(shown.shape)
    spot = F.interpolate(F.avg_pool2d(shown, 8), SIDE, mode="bicubic", align_corners=False).clamp(0, 1)
    kind = torch.rand(count, 1, 1, 1, generator=chance)
    return torch.where(kind < 0.6, bent_out, torch.where(kind < 0.8, F.avg_pool2d(shuffled, 3, 1, 1), spot))


def damaged(shown: Tensor, chance: torch.Generator) -> Tensor:
    """A quarter have lost a round part, half of these under a patch of the thing's mean colour: (B, 4, 32, 32) as from `place`."""
    count = len(shown)
    hit = torch.rand(count, 1, 1, 1, generator=chance) < DAMAGED
    centre = _between(-1, 1, count, chance)[:, None, None], _between(-1, 1, count, chance)[:, None, None]
    radius = _between(0.15, 0.4, count, chance)[:, None, None]
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    inside = ((x - centre[0]).square() + (y - centre[1]).square() < radius.square())[:, None]
    mean = shown[:, :3].sum((2, 3), keepdim=True) / shown[:, 3:].sum((2, 3), keepdim=True).clamp_min(1)
    patch = torch.cat([mean, torch.ones(count, 1, 1, 1)], 1)
    covered = torch.rand(count, 1, 1, 1, generator=chance) < 0.5
    return torch.where(hit & inside, patch * covered, shown)


def blotched(pictures: Tensor, chance: torch.Generator) -> Tensor:
    """Some blurred by a pixel, some with smooth noise in their colours: (B, 3, 32, 32)."""
    count = len(pictures)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    softened = torch.rand(count, 1, 1, 1, generator=chance) < SOFTENED
    noise = F.interpolate(torch.randn(count, 3, 8, 8, generator=chance), SIDE, mode="bicubic", align_corners=False)
    strength = 0.12 * torch.rand(count, 1, 1, 1, generator=chance)
    noisy = torch.rand(count, 1, 1, 1, generator=chance) < BLOTCHED
    return torch.where(softened, blurred, pictures) + noise * strength * noisy


def recoloured(shown: Tensor, chance: torch.Generator) -> Tensor:
    """The same outlines in colours that say less: see the shares above."""
    colour, alpha = shown[:, :3], shown[:, 3:]
    count = len(shown)
    order = torch.stack([torch.randperm(3, generator=chance) for _ in range(count)])
    permuted = colour.gather(1, order[:, :, None, None].expand_as(colour))
    grey = colour.mean(1, keepdim=True)
    angle = _between(0.5, 5.8, count, chance)[:, None, None, None]
    # Rodrigues' rotation about the axis of greys.
    crossed = (colour.roll(-1, 1) - colour.roll(1, 1)) / 3**0.5
    turned = (colour * angle.cos() + crossed * angle.sin() + grey * (1 - angle.cos())).clamp(0, 1)
    flat = alpha * (0.85 * torch.rand(count, 3, 1, 1, generator=chance))
    area = alpha.sum((2, 3), keepdim=True).clamp_min(1)
    mean = colour.sum((2, 3), keepdim=True) / area
    apart = colour - mean * alpha
    spread = (apart.square().sum((2, 3), keepdim=True) / area).sqrt().clamp_min(0.02)
    worn = torch.randperm(count, generator=chance)
    impostor = (apart / spread * spread[worn] + mean[worn] * alpha).clamp(0, 1)
    draw = torch.rand(count, 1, 1, 1, generator=chance)
    edges = np.cumsum([PERMUTED, TURNED, GREY, FLAT, IMPOSTOR])
    for share, other in reversed(
        list(zip(edges, (permuted, turned, grey.expand_as(colour), flat, impostor), strict=True))
    ):
        colour = torch.where(draw < float(share), other, colour)
    return torch.cat([colour.minimum(alpha), alpha], 1)


def on_ground(shown: Tensor, chance: torch.Generator) -> Tensor:
    """On white, or in a third of the cases on a colour; half of them blurred a little, as an autoencoder does: (B, 3, 32, 32)."""
    count = len(shown)
    plain = torch.rand(count, 1, 1, 1, generator=chance) < 0.67
    ground = torch.where(plain, torch.ones(()), torch.rand(count, 3, 1, 1, generator=chance))
    pictures = shown[:, :3] + ground * (1 - shown[:, 3:])
    by = torch.rand(count, 1, 1, 1, generator=chance) * (torch.rand(count, 1, 1, 1, generator=chance) < 0.5)
    blurred = F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    noise = 0.03 * torch.randn(pictures.shape, generator=chance) * torch.rand(count, 1, 1, 1, generator=chance)
    return torch.lerp(pictures, blurred, by) + noise


def save_judge(judge: Outlines, path: Path) -> None:
    """As fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in judge.state_dict().items()}, path, {"format": "pt"})
