"""Pictures of two words at once, and their references: the same sentence and noise with one or both words replaced."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from eval.pairs.meeting import Meeting
from eval.scores.drawn_pictures import LearnedWord
from pipeline.models.base import Backbone, alias
from pipeline.protocols import Protocol
from pipeline.randomness import derive_seed
from pipeline.records import Concept
from pipeline.sampling.grid import encode_png
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.store.run_tables import IMAGE, KEY

# Which words the sentence holds; a missing word is replaced by its concept's class or initializer.
Held = Literal["both", "a", "b", "neither"]
HELD: tuple[Held, ...] = get_args(Held)

PAIR_PICTURES = pa.schema([
    *KEY, ("partner", pa.string()), ("partner_fingerprint", pa.string()), ("template", pa.string()), ("held", pa.string()),
    ("prompt", pa.string()), ("index", pa.int64()), ("seed", pa.int64()), ("image", IMAGE),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class PairRequest:
    """One picture. prompt: with the words' placeholders."""

    meeting: Meeting
    held: Held
    prompt: str
    index: int
    seed: int


def pair_requests(meeting: Meeting, a: Concept, b: Concept, protocol: Protocol, seed: int) -> list[PairRequest]:
    """Every picture of a meeting. Seeds come from (run seed, a, prompt and b, index) and do not depend on which words it holds."""
    purpose = f"{protocol.base_label} {meeting.template} {b.name}"
    return [
        PairRequest(meeting, held, prompt, index, derive_seed(seed, a.name, purpose, index))
        for held in HELD
        for prompt in [_sentence(meeting, held, a, b, (a.placeholder, b.placeholder))]
        for index in range(protocol.pair_images)
    ]


def draw_pairs(
    backbone: Backbone,
    requests: Sequence[PairRequest],
    words: Mapping[str, LearnedWord],
    protocol: Protocol,
    resolution: int | None,
) -> pa.Table:
    """The pictures as PAIR_PICTURES. words: by concept. Raises PromptError if two words do not fit into the model's context."""
    settings = SamplerSettings(protocol.sampler, protocol.steps, protocol.guidance)
    vectors: dict[str, Mapping[str, np.ndarray]] = {}
    sentences = []
    for request in requests:
        a, b = words[request.meeting.a], words[request.meeting.b]
        # Two concepts may have the same placeholder, so each gets an internal name here that no tokenizer sees.
        names = (alias(a.concept.name, a.concept.placeholder), alias(b.concept.name, b.concept.placeholder))
        vectors |= {names[0]: a.vectors, names[1]: b.vectors}
        sentences.append(_sentence(request.meeting, request.held, a.concept, b.concept, names))
    pictures = sample(backbone, sentences, [each.seed for each in requests], vectors, settings, resolution)
    return pa.Table.from_pylist(
        [_row(request, picture, words) for request, picture in zip(requests, pictures, strict=True)], PAIR_PICTURES
    )


def _sentence(meeting: Meeting, held: Held, a: Concept, b: Concept, names: tuple[str, str]) -> str:
    """names: of the two words, used where the sentence holds them."""
    said = {
        place: name if held in ("both", place) else (concept.noun or concept.initializer or "")
        for place, concept, name in (("a", a, names[0]), ("b", b, names[1]))
    }
    return " ".join(re.sub(r"\{([ab])\}", lambda match: said[match[1]], meeting.template).split())


def _row(request: PairRequest, picture: np.ndarray, words: Mapping[str, LearnedWord]) -> dict[str, object]:
    meeting = request.meeting
    path = f"{meeting.a}-{meeting.b}-{request.held}-{request.index:03d}.png"
    return {
        "concept": meeting.a, "fingerprint": words[meeting.a].fingerprint, "partner": meeting.b,
        "partner_fingerprint": words[meeting.b].fingerprint, "template": meeting.template, "held": request.held,
        "prompt": request.prompt, "index": request.index, "seed": request.seed,
        "image": {"bytes": encode_png(picture), "path": path},
    }  # fmt: skip
