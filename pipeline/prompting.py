"""From a protocol to the prompts of one concept, with the word and with the word left out."""

import re
from dataclasses import dataclass

from pipeline.protocols import Protocol
from pipeline.randomness import derive_seed
from pipeline.records import Concept, SampleKind


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to be sampled. trained: with the learned word, else with the word as it was before training."""

    kind: SampleKind
    prompt: str
    stated: str
    index: int
    seed: int
    trained: bool


def requests_for(concept: Concept, protocol: Protocol, seed: int) -> list[Request]:
    """Every picture the protocol wants of the concept. Seeds come from (run seed, concept, prompt, index)."""
    plain, edits = protocol.plain[concept.kind], protocol.edits[concept.kind]
    wanted: list[tuple[SampleKind, str, int, bool]] = [("reconstruction", plain, protocol.plain_images, True)]
    wanted += [("edit", template, protocol.edit_images, True) for template in edits]
    wanted += [("untrained", template, protocol.untrained_images, False) for template in (plain, *edits)]
    return [
        Request(
            kind,
            template.format(concept.placeholder),
            leave_out(template.format(concept.placeholder), concept.placeholder),
            index,
            derive_seed(seed, concept.name, template, index),
            trained,
        )
        for kind, template, count, trained in wanted
        for index in range(count)
    ]


def leave_out(prompt: str, placeholder: str) -> str:
    """The prompt without the word, whatever its case: the text that editability is scored against (paper, section 5.1)."""
    return " ".join(re.sub(re.escape(placeholder), " ", prompt, flags=re.IGNORECASE).split())
