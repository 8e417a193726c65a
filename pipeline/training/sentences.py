"""The sentences that a word is trained in (templates or captions) as token ids, and which of them each picture may have.

Each step draws one of a picture's sentences (draws.py); here are only the choices.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.base import Backbone, Tokens, alias, placeholder_pattern, refuse_ambiguous
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.templates import templates_for

HOLE = "{}"


@dataclass(frozen=True, slots=True)
class Sentences:
    """On the CPU. tokens: ids (S, L) of all sentences, the templates first.

    choices: int64 (1, N, P), the P sentences of each of N pictures, as rows of `tokens`; (2, N, P) where a picture has a
    word of its own, the second being the sentences that hold it.
    """

    tokens: Tokens
    choices: Tensor

    def drawn(self, pictures: Tensor, places: Tensor, own: Tensor | None) -> Tokens:
        """B sentences, for pictures (B,) < N and places (B,) < P; own: bool (B,), with the picture's own word or not."""
        kinds = torch.zeros_like(pictures) if own is None else own.long()
        return Tokens(self.tokens.ids[self.choices[kinds, pictures, places]])


def sentences_of(
    backbone: Backbone,
    concept: Concept,
    settings: InversionSettings,
    captions: Sequence[str | None],
    vectors: int,
    encoders: Collection[str] = (),
) -> Sentences:
    """captions: one for each of the N pictures, None for one that has the templates.

    encoders: those that know the word, with OUT where it stands behind one; () for those that the settings name.
    vectors: that the placeholder stands for; the pictures' own words follow the concept's last vector in the table.
    Raises PromptError.
    """
    patterns = list(settings.templates or templates_for(concept.kind))
    count = len(patterns)
    for pattern in patterns:
        refuse_ambiguous(concept.placeholder, pattern.replace(HOLE, " "))
    names: dict[str, range] = {concept.placeholder: range(vectors)}
    chosen = [list(range(count)) for _ in captions]
    for picture, caption in enumerate(captions):
        if caption is not None:
            chosen[picture] = [len(patterns)] * count
            patterns.append(as_pattern(caption, concept.placeholder, patterns[0]))
    prompts = [pattern.replace(HOLE, concept.placeholder) for pattern in patterns]
    choices = [chosen]
    if settings.per_image:
        chosen_with_own = []
        for picture, rows in enumerate(chosen):
            own = own_word(picture)
            names[own] = range(concept.vectors + picture, concept.vectors + picture + 1)
            # As the authors' code has it: "a photo of a S* with S_i".
            places = {row: len(prompts) + place for place, row in enumerate(dict.fromkeys(rows))}
            prompts += [patterns[row].replace(HOLE, f"{concept.placeholder} with {own}") for row in places]
            chosen_with_own.append([places[row] for row in rows])
        choices.append(chosen_with_own)
    known = dict.fromkeys(names, encoders or backbone.encoders_of(settings.encoders, settings.word_place))
    return Sentences(Tokens(backbone.tokenise(prompts, names, known).ids.cpu()), torch.tensor(choices))


def own_word(picture: int) -> str:
    """The name of a picture's own word for the tokenizer, in characters that no caption has."""
    return alias(picture)


def as_pattern(caption: str, placeholder: str, template: str) -> str:
    """A caption with "{}" where the word stands: as it is written there, or for the first mention of the placeholder.

    One that mentions neither has the template before it.

    >>> (
    ...     as_pattern("my <cat> asleep", "<cat>", "a photo of a {}"),
    ...     as_pattern("asleep, at night", "<cat>", "a photo of a {}"),
    ... )
    ('my {} asleep', 'a photo of a {}, asleep, at night')
    """
    text = " ".join(caption.split())
    if HOLE in text:
        return text
    pattern, mentions = placeholder_pattern([placeholder]).subn(HOLE, text, count=1)
    return pattern if mentions else f"{template}, {text}"
