"""Which of a concept's repeats it is known by: `--choose`.

All are judged on pictures of their own, of the run's prompts and from other noise than the report's: a word chosen on the pictures
that are reported would look better than it is.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import replace

from eval.scores.summary import ConceptSummary
from pipeline.protocols import Protocol
from pipeline.store.catalogue.chosen import ChosenWord

PLAIN_IMAGES, EDIT_IMAGES = 8, 2


def choosing_protocol(protocol: Protocol) -> Protocol:
    """The run's prompts and sampler, its pictures from other noise, which is the same for all repeats of a concept."""
    made = replace(
        protocol, name="choose", version=1, plain_images=PLAIN_IMAGES, edit_images=EDIT_IMAGES, untrained_images=1,
        until_ci=0.0, pairs={}, seeds="class", digest="",
    )  # fmt: skip
    settings = json.dumps(made.as_dict(), sort_keys=True)
    return replace(made, digest=hashlib.sha256(settings.encode()).hexdigest())


def choose(words: Iterable[ConceptSummary]) -> tuple[ChosenWord, ...]:
    """words: of all concepts, scored under a choosing protocol.

    The word of each concept with the best reconstruction among those whose editability is not below the first one's. A concept
    whose first word has no score has nothing to be measured by, and is left out.
    """
    by_concept: dict[str, list[ConceptSummary]] = {}
    for word in words:
        if not math.isnan(word.reconstruction):
            by_concept.setdefault(word.repeat_of, []).append(word)
    chosen = []
    for concept, some in by_concept.items():
        first = next((word for word in some if word.repeat == "1"), None)
        if first is not None:
            best = max((word for word in some if not word.editability < first.editability), key=_rank)
            chosen.append(
                ChosenWord(concept, best.concept, best.fingerprint, len(some), *_figures(best), *_figures(first))
            )
    return tuple(chosen)


def known_by(words: Iterable[ConceptSummary], chosen: Iterable[ChosenWord]) -> list[ConceptSummary]:
    """One word a concept, under the concept's name: the chosen one, or the first where none is, or where it was learned again."""
    keys = {(each.word, each.fingerprint) for each in chosen}
    words = list(words)
    now = {word.repeat_of: word for word in words if (word.concept, word.fingerprint) in keys}
    return [replace(now.get(word.repeat_of, word), concept=word.concept) for word in words if word.repeat == "1"]


def _rank(word: ConceptSummary) -> tuple[float, bool]:
    """Of equal ones the first."""
    return word.reconstruction, word.repeat == "1"


def _figures(word: ConceptSummary) -> tuple[float, float | None]:
    return word.reconstruction, None if math.isnan(word.editability) else word.editability
