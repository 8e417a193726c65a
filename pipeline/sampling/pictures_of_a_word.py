"""Pictures that a protocol asks for, of any concepts' words: one batch of the frozen model mixes words, prompts and seeds."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.models.base import Backbone, PromptError
from pipeline.protocols import Protocol
from pipeline.protocols.protocol import ProtocolError, fill
from pipeline.records import AGAINST, Concept, Sample
from pipeline.sampling.grid import encode_png
from pipeline.sampling.picture_pool import PicturePool, Vectors, Wanted
from pipeline.sampling.prompting import Request, requests_for

WORD, PARTNER = "<w>", "<w2>"


def draw_concept(
    backbone: Backbone, concept: Concept, word: Vectors, protocol: Protocol, seed: int, resolution: int | None = None
) -> list[Sample]:
    """All that the protocol asks for. Raises PromptError where a prompt cannot be drawn."""
    requests = requests_for(concept, protocol, seed)
    return draw_pictures(backbone, wanted_of(backbone, concept, word, requests), protocol, resolution)


def wanted_of(backbone: Backbone, concept: Concept, word: Vectors, requests: Sequence[Request]) -> list[Wanted]:
    """The untrained word is what the concept's initializer gives. Raises PromptError where a prompt cannot be drawn."""
    initial = backbone.initial_vectors(concept.initializer, concept.vectors, tuple(word))
    rows = {concept.placeholder: range(len(next(iter(word.values()))))}
    backbone.tokenise(sentences_in(each.prompt for each in requests), rows, {concept.placeholder: tuple(word)})
    return [Wanted(concept, each, word if each.trained else initial) for each in requests]


def sentences_in(prompts: Iterable[str]) -> list[str]:
    """What a text encoder reads of prompts: they and their negative prompts, each once."""
    return sorted({part for prompt in prompts for part in prompt.split(AGAINST)})


def refuse_long_protocol(
    backbone: Backbone, concepts: Iterable[Concept], protocol: Protocol, encoders: Sequence[str]
) -> None:
    """Raises ProtocolError for a protocol whose prompts do not fit into the model's context with a word as long as these have,
    and beside it, in prompts with two words, one of a single vector.

    encoders: text encoders that know the words.
    """
    for concept in concepts:
        plain, edits = protocol.templates_of(concept)
        prompts = [fill(each, WORD, concept.noun) for each in (plain, *edits)]
        pairs = [each for some in protocol.pairs.values() for each in some]
        prompts += [each.replace("{a}", WORD).replace("{b}", PARTNER) for each in pairs]
        words = {WORD: range(concept.vectors), PARTNER: range(concept.vectors, concept.vectors + 1)}
        try:
            backbone.tokenise(prompts, words, dict.fromkeys(words, encoders))
        except PromptError as error:
            word = f"a word of {concept.vectors} vectors, as {concept.name} has," if concept.vectors > 1 else "a word"
            raise ProtocolError(
                f"the protocol {protocol.label} with {word} does not fit into the model's context: {error}"
            ) from None


def refuse_long_prompts(backbone: Backbone, concept: Concept, protocol: Protocol, encoders: Sequence[str]) -> None:
    """Raises PromptError where one of the concept's prompts does not fit into the model's context with the whole word in it.

    encoders: text encoders that know the word.
    """
    prompts = sentences_in(request.prompt for request in requests_for(concept, protocol, seed=0))
    backbone.tokenise(prompts, {concept.placeholder: range(concept.vectors)}, {concept.placeholder: encoders})


def draw_pictures(
    backbone: Backbone, wanted: Sequence[Wanted], protocol: Protocol, resolution: int | None = None
) -> list[Sample]:
    """One sample a picture, in their order; which others it is drawn beside changes it by rounding at most, on a CPU not at all."""
    return samples_of(wanted, pixels_of(backbone, wanted, protocol, resolution))


def samples_of(wanted: Sequence[Wanted], pictures: Sequence[np.ndarray]) -> list[Sample]:
    """Encodes what `pixels_of` drew, which takes no model."""
    return [
        Sample(each.concept.name, each.request.kind, each.request.prompt, each.request.stated, each.request.index,
               each.request.seed, encode_png(picture))
        for each, picture in zip(wanted, pictures, strict=True)
    ]  # fmt: skip


def pixels_of(
    backbone: Backbone, wanted: Sequence[Wanted], protocol: Protocol, resolution: int | None = None
) -> list[np.ndarray]:
    """One picture each, uint8 (R, R, 3)."""
    pool = PicturePool(backbone, protocol, resolution)
    pictures = pool.add(wanted)
    while pool.words:
        pool.advance()
    return [picture.result() for picture in pictures]
