"""One concept's pictures with their features: what every metric is computed from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from eval.judges.background import PatchScorer, without_background
from eval.judges.judge import ImageScorer
from eval.judges.outside_metric import Pictures, WordPictures
from eval.scores.metrics import Floats
from pipeline.inputs.picture_file import decode_drawn, decode_drawn_mask
from pipeline.models.base import in_its_place
from pipeline.records import AGAINST, Concept, Sample, SampleKind

# Kinds of pictures that are compared without their background.
ALONE: tuple[SampleKind, ...] = ("training", "reconstruction", "untrained", "edit")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One concept's samples, by kind, prompt and index, with their features (N, D), rows of length one.

    without_background: (N, D), of the same pictures on white, nan for kinds that are not in ALONE; None if the judge has no
    features of patches.
    """

    concept: str
    samples: tuple[Sample, ...]
    features: Floats
    without_background: Floats | None = None

    def of(self, kind: SampleKind, prompt: str | None = None) -> Floats:
        """The samples of one kind, for one prompt or for all."""
        return self.features[self._are(kind, prompt)]

    def alone(self, kind: SampleKind, prompt: str | None = None) -> Floats:
        """The same without their background, which the judge must be able to take away."""
        assert self.without_background is not None
        return self.without_background[self._are(kind, prompt)]

    def _are(self, kind: SampleKind, prompt: str | None) -> list[bool]:
        return [sample.kind == kind and (prompt is None or sample.prompt == prompt) for sample in self.samples]

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

    def pictures(self, kind: SampleKind, prompt: str) -> list[Image.Image]:
        """Raises ValueError for a picture that cannot be read."""
        return [_decoded(each) for each in self.samples if each.kind == kind and each.prompt == prompt]


def encode_concept(samples: Sequence[Sample], scorer: ImageScorer | None) -> Encoded:
    """samples: of all kinds, in any order; the order does not change the result. scorer: None leaves the features (N, 0).

    Raises ValueError if they belong to several concepts, hold no training images, or do not have exactly one plain prompt.
    """
    ordered = tuple(sorted(samples, key=lambda sample: (sample.kind, sample.prompt, sample.index)))
    concept = _only_concept(ordered)
    _only_plain_prompt(ordered, concept)
    if not any(sample.kind == "training" for sample in ordered):
        raise ValueError(f"{concept} has no training images among its samples to compare with")
    features = encode_samples(ordered, scorer) if scorer else np.empty((len(ordered), 0), np.float32)
    alone = _without_background(ordered, scorer) if isinstance(scorer, PatchScorer) else None
    return Encoded(concept, ordered, features, alone)


def without_features(samples: Sequence[Sample], concept: Concept) -> Encoded:
    """For a judge that is asked about pictures: features (N, 0), and in `stated` the class or initializer in the word's place.

    Raises ValueError as encode_concept does.
    """
    asked = [replace(each, stated=_with_noun(each, concept)) for each in samples]
    return encode_concept(asked, None)


def _with_noun(sample: Sample, concept: Concept) -> str:
    noun = concept.noun or concept.initializer or ""
    # A prompt of a negative word, or one that names the class anyway, is asked as it is.
    if not noun or AGAINST in sample.prompt or noun in sample.stated:
        return sample.stated
    return " ".join(in_its_place(sample.prompt, concept.placeholder, noun).split())


def _without_background(samples: Sequence[Sample], scorer: PatchScorer) -> Floats:
    training = [place for place, each in enumerate(samples) if each.kind == "training"]
    drawn = [place for place, each in enumerate(samples) if each.kind in ALONE and each.kind != "training"]
    pictures = [[_decoded(samples[place]) for place in some] for some in (training, drawn)]
    masks = [decode_drawn_mask(samples[place].png) for place in training]
    own, others = without_background(pictures[0], masks, pictures[1], scorer)
    features = np.full((len(samples), own.shape[1]), np.nan, np.float32)
    features[training], features[drawn] = own, others
    return features


def encode_samples(samples: Sequence[Sample], scorer: ImageScorer) -> Floats:
    """The samples' features (N, D), in the order of the samples."""
    return scorer.encode_images([_decoded(sample) for sample in samples])


def word_pictures(encoded: Encoded) -> WordPictures:
    """The same pictures for a metric from outside. Raises ValueError for one that cannot be decoded."""

    def of(kind: SampleKind, prompt: str) -> Pictures:
        return tuple(np.array(each.convert("RGB")) for each in encoded.pictures(kind, prompt))

    plain = encoded.plain_prompt
    return WordPictures(
        encoded.concept, of("training", ""), plain, of("reconstruction", plain), of("untrained", plain),
        {prompt: of("edit", prompt) for prompt in encoded.edits}, encoded.edits,
    )  # fmt: skip


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
