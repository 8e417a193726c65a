"""From words to pictures: classifier-free guidance (Ho and Salimans 2022) with any of diffusers' schedulers."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.models.base import Backbone

OF_NOUN, STEPS_OF_NOUN = 4, 12  # the model's own pictures of a class: how many, and denoising steps of each


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """sampler: a name of settings.Sampler. steps: denoising steps. guidance: guidance scale, 1 for none."""

    sampler: str = "dpm++"
    steps: int = 20
    guidance: float = 5.0
    batch: int = 16


def sample(
    backbone: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    words: Mapping[str, Mapping[str, np.ndarray]],
    settings: SamplerSettings,
    resolution: int | None = None,
) -> np.ndarray:
    """One picture a prompt, uint8 (N, R, R, 3).

    seeds: N, each fixing its picture's initial latents, whatever it is batched with.
    words: placeholder -> text encoder -> float32 (V, D); a text encoder that does not know a word reads its placeholder.
    Raises PromptError when a prompt does not fit into the model's context.
    """
    pictures = []
    for start in range(0, len(prompts), settings.batch):
        some = slice(start, start + settings.batch)
        pictures.append(_at_once(drawing(backbone, prompts[some], seeds[some], words, settings, resolution)))
    return np.concatenate(pictures)


def pictures_of_noun(backbone: Backbone, noun: str) -> np.ndarray:
    """The model's own pictures of a class, uint8 (OF_NOUN, R, R, 3): a start from pictures holds a concept's against them."""
    return sample(
        backbone, [f"a photo of a {noun}"] * OF_NOUN, range(OF_NOUN), {}, SamplerSettings(steps=STEPS_OF_NOUN)
    )


def _at_once(drawing: Generator[None, None, np.ndarray]) -> np.ndarray:
    while True:
        try:
            next(drawing)
        except StopIteration as end:
            pictures: np.ndarray = end.value
            return pictures


@torch.no_grad()
def drawing(
    backbone: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    words: Mapping[str, Mapping[str, np.ndarray]],
    settings: SamplerSettings,
    resolution: int | None = None,
) -> Generator[None, None, np.ndarray]:
    """`sample` of one batch, which stops after every denoising step so that something else can be done in between."""
    tables, rows = _stack(words, backbone)
    known = {placeholder: tuple(vectors) for placeholder, vectors in words.items()}
    conditioning = backbone.embed_guided(prompts, rows, tables, known)
    side = resolution or backbone.resolution
    latents = torch.cat([initial_latents(backbone, seed, side) for seed in seeds]).to(backbone.device)
    scheduler = backbone.scheduler(settings.sampler, settings.steps, (latents.shape[2], latents.shape[3]))
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        # Schedulers of flows have nothing to scale.
        scale = getattr(scheduler, "scale_model_input", lambda latents, _: latents)
        said = backbone.predict_guided(scale(latents, timestep), timestep, conditioning, settings.guidance)
        latents = scheduler.step(said, timestep, latents).prev_sample
        yield
    return backbone.decode(latents)


def initial_latents(backbone: Backbone, seed: int, resolution: int) -> Tensor:
    """The picture's starting noise (1, C, h, w), as diffusers' pipelines draw it from `torch.Generator().manual_seed(seed)`."""
    return torch.randn((1, *backbone.latent_shape(resolution)), generator=torch.Generator().manual_seed(seed))


def _stack(
    words: Mapping[str, Mapping[str, np.ndarray]], backbone: Backbone
) -> tuple[dict[str, Tensor], dict[str, range]]:
    """One table of all words for each text encoder, or place behind one, that knows any; and each placeholder's rows in it."""
    rows: dict[str, range] = {}
    widths = {
        name: width for name, width in backbone.word_widths.items() if any(name in word for word in words.values())
    }
    parts: dict[str, list[np.ndarray]] = {name: [] for name in widths}
    end = 0
    for placeholder, vectors in words.items():
        count = len(next(iter(vectors.values())))
        rows[placeholder] = range(end, end + count)
        end += count
        for name, width in widths.items():
            parts[name].append(vectors.get(name, np.zeros((count, width), np.float32)))
    return {name: torch.from_numpy(np.concatenate(some)).to(backbone.device) for name, some in parts.items()}, rows
