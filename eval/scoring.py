"""Scores of one concept's pictures: reconstruction and editability, each beside its floor and its ceiling.

samples of one concept -> image_similarity of the plain prompt, text_similarity of every edit prompt
"""

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from eval.clip import ClipScorer
from eval.metrics import bootstrap_interval, covered, image_similarity, text_similarity, training_ceiling
from pipeline.records import Sample, SampleKind, Score

Floats = npt.NDArray[np.floating[Any]]


def score_concept(samples: Sequence[Sample], clip: ClipScorer, rng: np.random.Generator) -> list[Score]:
    """All scores of one concept: one image_similarity, then a text_similarity per edit prompt in the prompts' order.

    image_similarity: the reconstruction samples against the training images. Floor: the plain prompt with the word as
    it was before training. Ceiling: the training images among themselves, without self-pairs; nan if there is only one.

    text_similarity: the edit prompt with the word left out (`Sample.stated`) against that prompt's samples. Floor: the
    same text against the reconstruction samples, as if the edit had done nothing. Ceiling: the same text against that
    prompt's samples with the untrained word: what the frozen model makes of the edit around a meaningless word.

    samples: the four kinds in any order; which order does not change a bit of the result.
    rng: resamples the images for the intervals; derived from the concept, so that it is scored alike in any company.

    Raises ValueError when the samples are of several concepts, when there are no training images or not exactly one
    plain prompt, or when a prompt says nothing besides the word.
    """
    ordered = sorted(samples, key=lambda sample: (sample.kind, sample.prompt, sample.index))
    concept = _only_concept(ordered)
    features = clip.encode_images([_decoded(sample) for sample in ordered])

    def of(kind: SampleKind, prompt: str) -> Floats:
        return features[[sample.kind == kind and sample.prompt == prompt for sample in ordered]]

    plain = _only_plain_prompt(ordered, concept)
    training, reconstruction = of("training", ""), of("reconstruction", plain)
    if not len(training):
        raise ValueError(f"{concept} has no training images among its samples, so there is nothing to compare with")
    values = image_similarity(reconstruction, training)
    floor = _mean(image_similarity(of("untrained", plain), training))
    scores = [_score(concept, plain, "image_similarity", values, (floor, training_ceiling(training)), rng)]

    stated = {sample.prompt: sample.stated for sample in ordered if sample.kind == "edit"}
    for (prompt, said), text in zip(stated.items(), clip.encode_texts(list(stated.values())), strict=True):
        if not said.strip():
            raise ValueError(
                f"{concept}: the prompt {prompt!r} says nothing besides the word, so there is no text to score"
            )
        values = text_similarity(of("edit", prompt), text)
        floor = _mean(text_similarity(reconstruction, text))
        ceiling = _mean(text_similarity(of("untrained", prompt), text))
        scores.append(_score(concept, prompt, "text_similarity", values, (floor, ceiling), rng))
    return scores


def _only_concept(samples: Sequence[Sample]) -> str:
    concepts = sorted({sample.concept for sample in samples})
    if len(concepts) != 1:
        raise ValueError(
            f"scoring takes one concept's samples; these are of {len(concepts)}: {', '.join(concepts[:5])}"
        )
    return concepts[0]


def _only_plain_prompt(samples: Sequence[Sample], concept: str) -> str:
    prompts = sorted({sample.prompt for sample in samples if sample.kind == "reconstruction"})
    if len(prompts) != 1:
        raise ValueError(
            f"{concept} has reconstruction samples of {len(prompts)} prompts; exactly one is the plain one"
        )
    return prompts[0]


def _decoded(sample: Sample) -> Image.Image:
    with Image.open(io.BytesIO(sample.png)) as picture:
        return picture.convert("RGB")


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _score(
    concept: str,
    prompt: str,
    metric: Literal["image_similarity", "text_similarity"],
    values: Floats,
    against: tuple[float, float],
    rng: np.random.Generator,
) -> Score:
    """against: (floor, ceiling)."""
    value, (low, high), (floor, ceiling) = _mean(values), bootstrap_interval(values, rng), against
    return Score(concept, prompt, metric, value, len(values), low, high, floor, ceiling, covered(value, floor, ceiling))
