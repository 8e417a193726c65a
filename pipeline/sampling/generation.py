"""Pictures of any prompts with any of a run's words in them, as Ray tasks of a batch each."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayTaskError

from pipeline.models.base import Backbone, Known, PromptError, split_at_placeholders
from pipeline.models.find import ModelError
from pipeline.models.load import cached_backbone
from pipeline.sampling.pictures_of_a_word import sentences_in
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import ModelSettings

Words = Mapping[str, Mapping[str, np.ndarray]]  # placeholder -> text encoder -> float32 (V, D)


@dataclass(frozen=True, slots=True)
class Drawing:
    """prompt, seed: what fixes the picture, together with the model, the words and the sampler. pixels: uint8 (R, R, 3)."""

    prompt: str
    seed: int
    pixels: np.ndarray


def words_in(prompt: str, placeholders: Sequence[str]) -> list[str]:
    """Those of the placeholders that the prompt holds, spelled as they are known."""
    known = {placeholder.lower(): placeholder for placeholder in placeholders}
    return sorted(
        {known[piece.lower()] for piece in split_at_placeholders(prompt, placeholders) if piece.lower() in known}
    )


def generate(
    prompts: Sequence[str],
    seeds: Sequence[int],
    words: Words,
    model: str,
    settings: SamplerSettings,
    model_settings: ModelSettings,
    gpus: float = 0,
    options: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> Iterator[Drawing]:
    """One drawing for every prompt and seed (zipped), in their order.

    options: for the store of a model that is a URL. digest: that its weights must have, or the words mean something else.
    Raises ModelError, and PromptError for a prompt that does not fit into the model's context, before anything is drawn.
    """
    load = functools.partial(
        cached_backbone, model, "cuda" if gpus else "cpu", model_settings, dict(options or {}), digest
    )
    rows = {name: range(len(next(iter(vectors.values())))) for name, vectors in words.items()}
    known = {name: tuple(vectors) for name, vectors in words.items()}
    try:
        ray.get(ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_measure).remote(load, list(prompts), rows, known))
    except RayTaskError as error:
        if isinstance(error.cause, ModelError | PromptError):
            raise error.cause from None
        raise
    draw = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_draw)
    futures = []
    for start in range(0, len(prompts), settings.batch):
        some = list(prompts[start : start + settings.batch])
        needed = {name: words[name] for prompt in some for name in words_in(prompt, list(words))}
        futures.append(draw.remote(load, some, seeds[start : start + settings.batch], needed, settings))
    for start, future in enumerate(futures):
        pictures = ray.get(future)
        for index, pixels in enumerate(pictures, start * settings.batch):
            yield Drawing(prompts[index], seeds[index], pixels)


def _measure(load: Callable[[], Backbone], prompts: list[str], rows: Mapping[str, range], known: Known) -> None:
    torch.set_num_threads(1)
    load().tokenise(sentences_in(prompts), rows, known)


def _draw(
    load: Callable[[], Backbone], prompts: list[str], seeds: Sequence[int], words: Words, settings: SamplerSettings
) -> np.ndarray:
    torch.set_num_threads(1)
    return sample(load(), prompts, seeds, words, settings)
