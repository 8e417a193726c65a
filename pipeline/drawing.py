"""All pictures of one concept that a protocol asks for, drawn from its learned word and from the word before training."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.backbones import Backbone
from pipeline.grid import encode_png
from pipeline.prompting import Request, requests_for
from pipeline.protocols import Protocol
from pipeline.records import Concept, Sample
from pipeline.sampling import SamplerSettings, sample

Vectors = Mapping[str, np.ndarray]  # text encoder -> float32 (V, D)


def draw_concept(
    backbone: Backbone, concept: Concept, word: Vectors, protocol: Protocol, seed: int, resolution: int | None = None
) -> list[Sample]:
    """The untrained word is what the concept's initializer gives. Raises PromptError where a prompt cannot be drawn."""
    requests = requests_for(concept, protocol, seed)
    initial = backbone.initial_vectors(concept.initializer, concept.vectors)
    return [
        drawn
        for trained, vectors in ((True, word), (False, initial))
        for drawn in draw_requests(
            backbone, concept, [each for each in requests if each.trained == trained], vectors, protocol, resolution
        )
    ]


def draw_requests(
    backbone: Backbone,
    concept: Concept,
    requests: Sequence[Request],
    word: Vectors,
    protocol: Protocol,
    resolution: int | None = None,
) -> list[Sample]:
    """Some of them, all with the same word in the concept's place."""
    if not requests:
        return []
    settings = SamplerSettings(protocol.sampler, protocol.steps, protocol.guidance)
    pictures = sample(
        backbone, [each.prompt for each in requests], [each.seed for each in requests],
        {concept.placeholder: word}, settings, resolution,
    )  # fmt: skip
    return [
        Sample(concept.name, each.kind, each.prompt, each.stated, each.index, each.seed, encode_png(picture))
        for each, picture in zip(requests, pictures, strict=True)
    ]
