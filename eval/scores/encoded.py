"""One concept's pictures with their features: what every metric is computed from."""

import typing
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from eval.judges.clip import Picture
from eval.scores.metrics import Floats
from pipeline.inputs.picture_file import decode_drawn
from pipeline.records import AGAINST, Sample, SampleKind


class ImageScorer(typing.Protocol):
    """A judge of pictures: a CLIP, or a model that reads no texts, such as DINO. See eval.judges.clip.ClipScorer."""

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
        """The samples of one kind, for one prompt or for all."""
        return self.features[
            [sample.kind == kind and (prompt is None or sample.prompt == prompt) for sample in self.samples]
        ]

    @property
    def plain_prompt(self) -> str:
        return next(sample.prompt for sample in self.samples if sample.kind == "reconstruction")

    @property
    def avoids(self) -> bool:
        """Whether the word is one of the negative prompt, learned from pictures to be avoided."""
        return AGAINST in self.plain_prompt

    @property
    def edits(self) -> dict[str, str]:
        """Edit prompt -> its text without the word."""
        return {sample.prompt: sample.stated for sample in self.samples if sample.kind == "edit"}

    @property
    def plain(self) -> Floats:
        """The pictures of the plain prompt, drawn with the learned word."""
        return self.of("reconstruction")


def encode_concept(samples: Sequence[Sample], scorer: ImageScorer) -> Encoded:
    """samples: of all kinds, in any order; the order does not change the result.

    Raises ValueError if they belong to several concepts, hold no training images, or do not have exactly one plain prompt.
    """
    ordered = tuple(sorted(samples, key=lambda sample: (sample.kind, sample.prompt, sample.index)))
    concept = _only_concept(ordered)
    _only_plain_prompt(ordered, concept)
    if not any(sample.kind == "training" for sample in ordered):
        raise ValueError(f"{concept} has no training images among its samples to compare with")
    return Encoded(concept, ordered, encode_samples(ordered, scorer))


def encode_samples(samples: Sequence[Sample], scorer: ImageScorer) -> Floats:
    """The samples' features (N, D), in the order of the samples."""
    return scorer.encode_images([_decoded(sample) for sample in samples])


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
    try:
        return decode_drawn(sample.png)
    except ValueError as error:
        raise ValueError(f"{sample.concept}, {sample.kind} {sample.index}: {error}") from None
