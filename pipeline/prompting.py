"""From a protocol to the prompts of one concept, with the word and with the word left out."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.backbones import PromptError
from pipeline.protocols.protocol import Protocol, ProtocolError, fill
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
    """Every picture the protocol wants of the concept. Seeds come from (run seed, concept, prompt, index).

    Raises PromptError where the protocol has no prompts for the concept.
    """
    try:
        plain, edits = protocol.templates_of(concept)
    except ProtocolError as error:
        raise PromptError(str(error)) from error
    wanted: list[tuple[SampleKind, str, int, bool]] = [("reconstruction", plain, protocol.plain_images, True)]
    wanted += [("edit", template, protocol.edit_images, True) for template in edits]
    wanted += [("untrained", template, protocol.untrained_images, False) for template in (plain, *edits)]
    return [
        Request(
            kind,
            prompt := fill(template, concept.placeholder, concept.noun),
            leave_out(prompt, concept.placeholder),
            index,
            derive_seed(seed, concept.name, _purpose(protocol, template), index),
            trained,
        )
        for kind, template, count, trained in wanted
        for index in range(count)
    ]


def serves(samples: Iterable[tuple[str, str, int, int]], requests: Iterable[Request]) -> bool:
    """Whether pictures, each as (kind, prompt, index, seed), are just those asked for; training images are passed over.

    A seed names the protocol, and the protocol's label the sampler and its settings.
    """
    asked = {(request.kind, request.prompt, request.index, request.seed) for request in requests}
    return {sample for sample in samples if sample[0] != "training"} == asked


def _purpose(protocol: Protocol, template: str) -> str:
    # quick-v1 was there before any other, and its pictures keep the seeds they were drawn from.
    return template if protocol.label == "quick-v1" else f"{protocol.label} {template}"


def leave_out(prompt: str, placeholder: str) -> str:
    """The prompt without the word, whatever its case: the text that editability is scored against (paper, section 5.1)."""
    return " ".join(re.sub(re.escape(placeholder), " ", prompt, flags=re.IGNORECASE).split())
