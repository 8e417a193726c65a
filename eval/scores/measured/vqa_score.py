"""VQAScore of each edit prompt's pictures: the probability that a vision-language model says they show the prompt."""

from collections.abc import Iterator

import numpy as np

from eval.judges.judge import AnsweringJudge
from eval.scores.encoded import Encoded
from eval.scores.metric import Column, Measurement, Metric
from eval.scores.metrics import mean
from pipeline.protocols import Protocol


def measure(encoded: Encoded, judge: AnsweringJudge) -> Iterator[Measurement]:
    """All of a concept's questions go to the judge at once. Raises ValueError if a prompt has no text."""
    edits = encoded.edits
    shown = {
        prompt: (
            encoded.pictures("edit", prompt),
            encoded.pictures("reconstruction", encoded.plain_prompt),
            encoded.pictures("untrained", prompt),
        )
        for prompt in edits
    }
    pictures = [each for three in shown.values() for some in three for each in some]
    texts = [edits[prompt] for prompt, three in shown.items() for some in three for _ in some]
    answers = judge.probabilities(pictures, texts)
    lengths = [len(some) for three in shown.values() for some in three]
    parts = iter(np.split(answers, np.cumsum(lengths)[:-1]))
    for prompt in edits:
        values, plain, untrained = next(parts), next(parts), next(parts)
        yield Measurement(prompt, values, mean(plain), mean(untrained))


def expected(protocol: Protocol, reads_texts: bool) -> bool:
    return any(protocol.edits.values())


METRIC = Metric(
    name="vqa_score",
    figure="vqa_score",
    order=8,
    measure=measure,
    expected=expected,
    answered=True,
    of_negative=True,
    columns=(
        Column("vqa_score", "value"),
        Column("vqa_score_floor", "floor"),
        Column("vqa_score_ceiling", "ceiling"),
    ),
    headline=("vqa_score",),
    meaning="probability that a vision-language model (`--vqa`) says yes when it is asked whether an edit prompt's picture "
    "shows the prompt, with the class or initializer in the word's place",
    floor="the same question of the plain prompt's pictures",
    ceiling="the same question of the same prompt's pictures with the untrained word",
    unit="probability",
)
