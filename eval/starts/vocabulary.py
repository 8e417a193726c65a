"""Fits a start file to the model's own words, which needs no archive: ridge from the CLIP's features of "a photo of a NOUN" to the
noun's embeddings.

Pictures and texts lie apart in a CLIP's space (Liang et al. 2022, "Mind the Gap"). So a picture's feature is taken less the mean
feature of a few pictures that the model draws of its own words, and scaled so that these spread as widely as the texts do.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from eval.judges.clip import load_clip
from eval.judges.nearest_words import PROMPT
from eval.starts.archive_fit import FittedMap, start_maps
from eval.starts.ridge import fit_ridge
from pipeline.models.load import load_backbone
from pipeline.randomness import numpy_generator
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import ModelSettings
from pipeline.training.recipes import vectors_of
from pipeline.training.start_file import StartFile

VECTORS = (1, 2, 3, 4)  # of words that can start from the vocabulary, and as many as the model's words have by default
MOST_NOUNS = 20_000
SHORTEST = 3  # letters of a noun
DRAWN = SamplerSettings(steps=12, batch=32)
PICTURES = 64  # that the model draws of its own words


def fit_vocabulary(
    model: str,
    digest: str,
    clip: str,
    nouns: tuple[str, ...] = (),
    device: str = "cpu",
    settings: ModelSettings | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[StartFile, tuple[FittedMap, ...]]:
    """nouns: words to fit to; () takes all whole words of the vocabulary, which knows no parts of speech.

    Raises ModelError, ValueError for a CLIP that cannot be loaded, and PromptError for a noun that the model cannot read.
    """
    torch.set_num_threads(1)
    backbone, scorer = (
        load_backbone(model, device, settings or ModelSettings(), options or {}, digest),
        load_clip(clip, device),
    )
    words = list(nouns) or [word for word in backbone.vocabulary_words() if len(word) >= SHORTEST][:MOST_NOUNS]
    texts = scorer.encode_texts([PROMPT.format(word) for word in words])
    chosen = numpy_generator(0, "", "nouns that are drawn").choice(words, PICTURES)
    prompts = [PROMPT.format(word) for word in chosen]
    pictures = scorer.encode_images(list(sample(backbone, prompts, range(PICTURES), {}, DRAWN)))
    mean = pictures.mean(0)
    spread = functools.partial(np.linalg.norm, axis=1)
    scale = float(spread(texts - texts.mean(0)).mean() / max(float(spread(pictures - mean).mean()), 1e-6))
    maps, fitted = {}, []
    for count in sorted({*VECTORS, vectors_of(model)}):
        vectors = [backbone.initial_vectors(word, count) for word in words]
        shapes = {name: each.shape for name, each in sorted(vectors[0].items())}
        rows = np.stack([np.concatenate([each[name].ravel() for name in shapes]) for each in vectors])
        ridge = fit_ridge(texts, rows, words)
        # A picture at the pictures' mean is read as a text at the texts' mean.
        moved = start_maps(ridge, shapes, ridge.mean, scale)
        maps["object", count] = moved
        fitted.append(FittedMap("object", count, len(words), ridge.strength, ridge.explained))
    said = f"{len(words)} words of the vocabulary"
    return StartFile("", model, digest, clip, scorer.fingerprint, said, mean.astype(np.float32), maps), tuple(fitted)
