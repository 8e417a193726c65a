"""From a protocol to the prompts of one concept, with the word and with the word left out."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.models.base import PromptError, in_its_place, refuse_ambiguous
from pipeline.protocols.protocol import Protocol, ProtocolError, fill
from pipeline.randomness import derive_seed
from pipeline.records import AGAINST, Concept, SampleKind


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to be sampled.

    trained: with the learned word, else with the word as it was before training, where the prompt holds one at all. A negative
    word is in the negative prompt, behind AGAINST; before training there is none.
    """

    kind: SampleKind
    prompt: str
    stated: str
    index: int
    seed: int
    trained: bool


def requests_for(concept: Concept, protocol: Protocol, seed: int) -> list[Request]:
    """Every picture the protocol wants of the concept. Seeds come from (run seed, concept or its class, prompt, index).

    Raises PromptError where the protocol has no prompts for the concept, or its placeholder is one of their words.
    """
    try:
        plain, edits = protocol.templates_of(concept)
    except ProtocolError as error:
        raise PromptError(str(error)) from error
    for template in (plain, *edits):
        refuse_ambiguous(concept.placeholder, fill(template, " ", concept.noun))
    wanted: list[tuple[SampleKind, str, int, bool]] = [("reconstruction", plain, protocol.plain_images, True)]
    wanted += [("edit", template, protocol.edit_images, True) for template in edits]
    wanted += [("untrained", template, protocol.untrained_images, False) for template in (plain, *edits)]
    requests = []
    for kind, template, count, trained in wanted:
        prompt = _prompt(template, concept)
        said = (kind, prompt, leave_out(prompt.partition(AGAINST)[0], concept.placeholder))
        requests += [
            Request(*said, index, _seed(seed, concept, protocol, template, index), trained) for index in range(count)
        ]
    if concept.kind == "negative":
        return requests
    floors: dict[SampleKind, str | None] = {"noun": _with_noun(plain, concept), "wordless": _tidy(fill(plain, "", ""))}
    for kind, stated in floors.items():
        if stated is not None:
            # From the noise of the plain prompt's own pictures: what differs between them is the word alone.
            seeds = [_seed(seed, concept, protocol, plain, index) for index in range(protocol.untrained_images)]
            requests += [Request(kind, stated, stated, index, each, False) for index, each in enumerate(seeds)]
    return requests


def _prompt(template: str, concept: Concept) -> str:
    """With the word in its place; of a negative word the prompt that names its class instead, and the word against it."""
    if concept.kind == "negative":
        noun = concept.noun or ""
        return f"{_tidy(fill(template, '' if '{class}' in template else noun, noun))}{AGAINST}{concept.placeholder}"
    return fill(template, concept.placeholder, concept.noun)


def missing(samples: Iterable[tuple[str, str, int, int]], requests: Iterable[Request]) -> list[Request]:
    """Those of the requests that are not among the pictures, each given as (kind, prompt, index, seed).

    A seed names the protocol, and the protocol's label the sampler and its settings.
    """
    there = set(samples)
    return [each for each in requests if (each.kind, each.prompt, each.index, each.seed) not in there]


def _with_noun(template: str, concept: Concept) -> str | None:
    """The prompt with the class (or initializer) in the word's place; with nothing there if it names the class anyway."""
    if "{class}" in template:
        return _tidy(fill(template, "", concept.noun))
    noun = concept.noun or concept.initializer
    return _tidy(fill(template, noun, noun)) if noun else None


def _seed(seed: int, concept: Concept, protocol: Protocol, template: str, index: int) -> int:
    # quick-v1 was there before any other, and its pictures keep the seeds they were drawn from.
    if protocol.seeds == "class":
        shared = concept.noun or concept.initializer or concept.kind
        return derive_seed(seed, f"class {shared}", f"{protocol.base_label} {template}", index)
    purpose = template if protocol.base_label == "quick-v1" else f"{protocol.base_label} {template}"
    return derive_seed(seed, concept.name, purpose, index)


def leave_out(prompt: str, placeholder: str) -> str:
    """The prompt without the word, whatever its case: the text that editability is scored against (paper, section 5.1)."""
    return _tidy(in_its_place(prompt, placeholder, " "))


def _tidy(prompt: str) -> str:
    return " ".join(prompt.split())
