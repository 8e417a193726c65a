"""Scores of one concept's pictures: reconstruction, editability, diversity, each beside its floor and its ceiling.

samples of one concept -> features -> image_similarity and diversity of the plain prompt, text_similarity of every edit
prompt, subject_fidelity of all of them
"""

import functools
import io
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from eval.judges.clip import ClipScorer, Picture
from eval.scores.metrics import (
    Floats,
    bootstrap_interval,
    covered,
    diversity,
    diversity_interval,
    effect,
    image_similarity,
    text_similarity,
    training_ceiling,
)
from pipeline.records import Metric, Sample, SampleKind, Score

# What is drawn of the plain prompt without any learned or untrained word in it.
FLOORS: tuple[SampleKind, ...] = ("noun", "wordless")


class ImageScorer(typing.Protocol):
    """What judges pictures: a CLIP, or a model without texts such as DINO. See eval.judges.clip.ClipScorer."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def encode_images(self, pictures: Sequence[Picture]) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """One concept's samples, by kind, prompt and index, with their features (N, D), rows of length one."""

    concept: str
    samples: tuple[Sample, ...]
    features: Floats

    def of(self, kind: SampleKind, prompt: str | None = None) -> Floats:
        """Those of a kind, of one prompt or of all."""
        return self.features[
            [sample.kind == kind and (prompt is None or sample.prompt == prompt) for sample in self.samples]
        ]

    @property
    def plain(self) -> Floats:
        """The pictures of the plain prompt, drawn with the learned word."""
        return self.of("reconstruction")


def encode_concept(samples: Sequence[Sample], scorer: ImageScorer) -> Encoded:
    """samples: of all kinds in any order; which order does not change a bit of the result.

    Raises ValueError when they are of several concepts, when there are no training images, or not exactly one plain
    prompt.
    """
    ordered = tuple(sorted(samples, key=lambda sample: (sample.kind, sample.prompt, sample.index)))
    concept = _only_concept(ordered)
    _only_plain_prompt(ordered, concept)
    if not any(sample.kind == "training" for sample in ordered):
        raise ValueError(f"{concept} has no training images among its samples, so there is nothing to compare with")
    return Encoded(concept, ordered, encode_samples(ordered, scorer))


def encode_samples(samples: Sequence[Sample], scorer: ImageScorer) -> Floats:
    """Their features (N, D), in their order."""
    return scorer.encode_images([_decoded(sample) for sample in samples])


def score_concept(encoded: Encoded, texts: ClipScorer | None, rng: np.random.Generator) -> list[Score]:
    """All scores of one concept: image_similarity, a text_similarity per edit prompt in the prompts' order, diversity,
    subject_fidelity, effect.

    image_similarity: the reconstruction samples against the training images. Floor: the plain prompt with the word as
    it was before training. Ceiling: the training images among themselves, without self-pairs; nan if there is only one.

    text_similarity: the edit prompt with the word left out (`Sample.stated`) against that prompt's samples. Floor: the
    same text against the reconstruction samples, as if the edit had done nothing. Ceiling: the same text against that
    prompt's samples with the untrained word: what the frozen model makes of the edit around a meaningless word.

    diversity: how far the reconstruction samples are from each other. Floor: 0, one picture again and again. Ceiling:
    how far the training images are. A word that has learned little can be above it.

    subject_fidelity: the samples of all edit prompts against the training images, as DreamBench scores CLIP-I and DINO;
    its prompt is "", and without edits there is none. Floor: the same prompts with the word as it was before training.

    effect: how far the plain prompt's pictures are from those that the word drew before training from the same noise.
    Floor: 0, a word that changes nothing (see summary.NO_EFFECT). Ceiling: how far the latter are from the training images.
    There is none where nothing was drawn from the same noise.

    floor_noun and floor_wordless of each: the same figure of the plain prompt's pictures drawn with the class (or the
    initializer) in the word's place, and with nothing there.

    texts: reads the prompts; None for a model that knows only pictures, which has no text_similarity.
    rng: resamples the images for the intervals; derived from the concept, so that it is scored alike in any company.

    Raises ValueError when a prompt says nothing besides the word.
    """
    concept, plain = encoded.concept, _only_plain_prompt(encoded.samples, encoded.concept)
    training, reconstruction = encoded.of("training"), encoded.plain
    ceiling = training_ceiling(training)

    def score(
        prompt: str, metric: Metric, values: Floats, floor: float, ceiling: float, measure: Callable[[Floats], Floats]
    ) -> Score:
        interval = diversity_interval if metric == "diversity" else bootstrap_interval
        value, (low, high) = _mean(values), interval(values, rng)
        share = covered(value, floor, ceiling)
        noun, wordless = (_mean(measure(encoded.of(kind))) for kind in FLOORS)
        return Score(concept, prompt, metric, value, len(values), low, high, floor, ceiling, share, noun, wordless)

    def alike(pictures: Floats) -> Floats:
        return image_similarity(pictures, training)

    floor = _mean(alike(encoded.of("untrained", plain)))
    scores = [score(plain, "image_similarity", alike(reconstruction), floor, ceiling, alike)]
    edits = {sample.prompt: sample.stated for sample in encoded.samples if sample.kind == "edit"}
    for prompt, text in _features_of_texts(concept, edits, texts):
        values = text_similarity(encoded.of("edit", prompt), text)
        floor = _mean(text_similarity(reconstruction, text))
        without = _mean(text_similarity(encoded.of("untrained", prompt), text))
        measure = functools.partial(text_similarity, text=text)
        scores.append(score(prompt, "text_similarity", values, floor, without, measure))
    scores.append(score(plain, "diversity", diversity(reconstruction), 0.0, _mean(diversity(training)), diversity))
    if edits:
        untrained = np.concatenate([alike(encoded.of("untrained", prompt)) for prompt in edits])
        scores.append(score("", "subject_fidelity", alike(encoded.of("edit")), _mean(untrained), ceiling, alike))
    changes = _changes(encoded, plain)
    if len(changes):
        away = 1 - _mean(alike(encoded.of("untrained", plain)))
        scores.append(score(plain, "effect", changes, 0.0, away, lambda _: np.empty(0)))
    return scores


def _changes(encoded: Encoded, prompt: str) -> Floats:
    """`effect` of the pairs of pictures of the prompt that began with the same noise."""

    def by_seed(kind: SampleKind) -> dict[int, int]:
        found = ((place, each) for place, each in enumerate(encoded.samples) if each.kind == kind)
        return {each.seed: place for place, each in found if each.prompt == prompt}

    learned, untrained = by_seed("reconstruction"), by_seed("untrained")
    shared = [seed for seed in learned if seed in untrained]
    return effect(
        encoded.features[[learned[seed] for seed in shared]], encoded.features[[untrained[seed] for seed in shared]]
    )


def _features_of_texts(
    concept: str, edits: Mapping[str, str], texts: ClipScorer | None
) -> Iterator[tuple[str, Floats]]:
    """Edit prompt -> the feature (D,) of what it says without the word."""
    for prompt, said in edits.items():
        if not said.strip():
            raise ValueError(
                f"{concept}: the prompt {prompt!r} says nothing besides the word, so there is no text to score"
            )
    if texts is not None:
        yield from zip(edits, texts.encode_texts(list(edits.values())), strict=True)


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
    return float(values.mean()) if len(values) else math.nan
