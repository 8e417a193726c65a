"""Sequential sampling: draw pictures of a prompt until the interval of its score is narrow enough.

After the rounds there are 8, 16, 32, ... pictures, always the first of the protocol's full sample. Drawing stops when Student's
95 % interval of the prompt's mean score is within the bound on either side, or when the protocol's count is reached. (Chow and
Robbins 1965 showed that the coverage of such an interval is right in the limit of a small bound.)

The price: the rule stops when the spread happens to look small, so its interval covers less often than 95 %.
tests/eval/scores/test_stopping.py simulates this: the coverage is at worst 93 % for normal scores and 91 % for scores of skewness
one, whose mean is also biased by up to a twentieth of their spread. There is no loss if the bound is met in the first round, or
never. For an interval that is to be published, draw the full sample.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from eval.judges.judge import ClipScorer, ImageScorer
from eval.scores.encoded import Encoded, encode_samples
from eval.scores.metrics import Floats, image_similarity, student, text_similarity
from pipeline.protocols import Protocol
from pipeline.records import Sample, SampleKind
from pipeline.sampling.picture_pool import Wanted

FIRST = 8
DRAWN_IN_ROUNDS: tuple[SampleKind, ...] = ("reconstruction", "edit")

Prompt = tuple[SampleKind, str]  # "reconstruction" or "edit", and the prompt


def rounds(most: int) -> Iterator[int]:
    """The number of pictures after each round: 8, 16, 32, ... and finally `most`.

    >>> list(rounds(40)), list(rounds(4))
    ([8, 16, 32, 40], [4])
    """
    count = FIRST
    while count < most:
        yield count
        count *= 2
    yield most


def half_width(values: Floats) -> float:
    """Half the width of the 95 % interval of the mean of `values` (N,), by Student's t; infinite below two values."""
    count = len(values)
    if count < 2:
        return math.inf
    return student(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)


def enough(values: Floats, bound: float, most: int) -> int | None:
    """The number of scores at which the rule stops; None if it needs more than these.

    values (N,): scores of the first N pictures, in order. Scores after the stopping point do not change the result.
    """
    for count in rounds(most):
        if count > len(values):
            return None
        if count == most or half_width(values[:count]) <= bound:
            return count
    raise AssertionError("the last round is all of them")


def decide(encoded: Encoded, texts: ClipScorer | None, protocol: Protocol) -> dict[Prompt, int | None]:
    """For each prompt of the learned word, the result of `enough` for its score.

    The score is image similarity for the plain prompt; for an edit prompt it is text similarity, or image similarity if the judge
    reads no texts.
    """
    training = encoded.of("training")
    prompts = {(each.kind, each.prompt): each.stated for each in encoded.samples if each.kind in DRAWN_IN_ROUNDS}
    enough_at: dict[Prompt, int | None] = {}
    for (kind, prompt), stated in prompts.items():
        features = encoded.of(kind, prompt)
        if kind == "edit" and texts is not None:
            values = text_similarity(features, texts.encode_texts([stated])[0])
        else:
            values = image_similarity(features, training)
        enough_at[kind, prompt] = enough(values, protocol.until_ci, most_of(kind, protocol))
    return enough_at


def most_of(kind: SampleKind, protocol: Protocol) -> int:
    return protocol.plain_images if kind == "reconstruction" else protocol.edit_images


class Watch:
    """Decides which pictures to draw next, from the scores of those drawn so far."""

    def __init__(self, protocol: Protocol, scorer: ImageScorer) -> None:
        self._protocol, self._scorer = protocol, scorer
        self._seen: dict[str, list[tuple[Sample, Floats]]] = {}

    def add(self, samples: Sequence[Sample]) -> None:
        for sample, feature in zip(samples, encode_samples(samples, self._scorer), strict=True):
            self._seen.setdefault(sample.concept, []).append((sample, feature))

    def due(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """The concept's pictures of the next round. Pictures for floors are all drawn in the first one."""
        if not wanted:
            return []
        seen = self._seen.get(wanted[0].concept.name, [])
        counts: dict[Prompt, int] = Counter((sample.kind, sample.prompt) for sample, _ in seen)
        decided: dict[Prompt, int | None] = {}
        if seen:
            pairs = sorted(seen, key=lambda pair: (pair[0].kind, pair[0].prompt, pair[0].index))
            encoded = Encoded(
                wanted[0].concept.name, tuple(pair[0] for pair in pairs), np.stack([pair[1] for pair in pairs])
            )
            decided = decide(encoded, self._scorer if isinstance(self._scorer, ClipScorer) else None, self._protocol)
        due = []
        for each in wanted:
            request = each.request
            key = (request.kind, request.prompt)
            if request.kind not in DRAWN_IN_ROUNDS:
                due.append(each)
            elif decided.get(key) is None:
                most = most_of(request.kind, self._protocol)
                due += [each] if request.index < next(n for n in rounds(most) if n > counts[key]) else []
        return due


def cut(encoded: Encoded, counts: Mapping[Prompt, int | None]) -> Encoded:
    """The samples without pictures that the rule would not have drawn.

    Raises ValueError if pictures are missing that it would have drawn.
    """
    for (_, prompt), count in counts.items():
        if count is None:
            raise ValueError(
                f"{encoded.concept}: not all pictures of {prompt!r} that its interval takes have been drawn"
            )
    keep = [each.index < (counts.get((each.kind, each.prompt)) or math.inf) for each in encoded.samples]
    samples = tuple(each for each, kept in zip(encoded.samples, keep, strict=True) if kept)
    alone = None if encoded.without_background is None else encoded.without_background[keep]
    return replace(encoded, samples=samples, features=encoded.features[keep], without_background=alone)
