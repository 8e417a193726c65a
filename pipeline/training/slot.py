"""A slot: one concept in training, with its word, its sentences, and its pictures as cached latents."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.models.base import Backbone, Posterior, Tokens
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.sentences import Sentences, sentences_of
from pipeline.training.start_vectors import NormRule, start_vectors
from pipeline.training.weighting import mask_weights


@dataclass(frozen=True, slots=True)
class SideInformation:
    """What belongs to a concept's N pictures beside their pixels.

    captions: one each, None for a picture without; () where nobody asked for them.
    masks: uint8 (N, R, R), 255 where the concept is. nearest: the words that look most like the pictures.
    pictured, drawn: text encoder -> (D,), what a start encoder makes of the pictures, and of the model's own pictures of the
    initializer; from a start file, text encoder -> (V, D), and None.
    """

    captions: tuple[str | None, ...] = ()
    masks: np.ndarray | None = None
    nearest: tuple[str, ...] = ()
    pictured: Mapping[str, np.ndarray] | None = None
    drawn: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True, slots=True)
class Draws:
    """The random draws of one step of one concept, for B pictures, on the CPU.

    latents, noise: float32 (B, C, h, w). timesteps: the model's times (B,). tokens: ids of the B prompts.
    weights: float32 (B, 1, h, w) or (B, 1, 1, 1), of the squared errors; None where all weigh the same.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tokens
    weights: Tensor | None = None

    def some(self, part: slice) -> "Draws":
        """Of those of the pictures."""
        weights = None if self.weights is None else self.weights[part]
        return Draws(self.latents[part], self.noise[part], self.timesteps[part], Tokens(self.tokens.ids[part]), weights)


@dataclass(slots=True, eq=False)
class Slot:
    """One concept in training: its word, what Adam keeps of it, and its progress.

    words: text encoder -> (V, D), or (V + N, D) where each of the N pictures has a word of its own below the concept's.
    means, squares: Adam's running means of the words' gradients and of their squares, of the same shapes.
    posterior, weights: on the CPU, where each step's draws are made; weights (N or 2 N, 1, h, w) of the latents' places, if
    any has one.
    stages: from which step on the word has how many of its vectors; the last stage has all.
    best: the words at the look of the lowest loss, of their shapes; {} where the rule for an early stop keeps none.
    anchors: where regularisation or the directional prior draws the words to, of their shapes; {} without either.
    ahead: what a later step needs, and which step that is, as it is being drawn (draws.py).
    """

    concept: Concept
    settings: InversionSettings
    posterior: Posterior
    stages: tuple[tuple[int, Sentences], ...]
    words: dict[str, torch.nn.Parameter]
    initial: dict[str, np.ndarray]
    means: dict[str, Tensor]
    squares: dict[str, Tensor]
    hold_norm: NormRule
    anchors: dict[str, Tensor]
    weights: Tensor | None
    began: float = field(default_factory=time.monotonic)
    seconds_before: float = 0.0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    ahead: tuple[int, Future[Draws]] | None = None

    @property
    def is_directional(self) -> bool:
        """Whether directional.py moves its word, and not Adam."""
        return self.settings.optimiser == "directional"

    @property
    def sentences(self) -> Sentences:
        """Those of the stage that the next step belongs to."""
        return self.sentences_at(self.step)

    def sentences_at(self, step: int) -> Sentences:
        return next(sentences for first, sentences in reversed(self.stages) if step >= first)

    @property
    def templates(self) -> Tokens:
        """All sentences of the whole word."""
        return self.stages[-1][1].tokens

    @property
    def rows(self) -> int:
        """Of the table of words that it takes."""
        return len(next(iter(self.words.values())))

    @property
    def seconds(self) -> float:
        """In training so far, before an interruption too."""
        return self.seconds_before + time.monotonic() - self.began


def new_slot(
    concept: Concept,
    pixels: np.ndarray,
    backbone: Backbone,
    settings: InversionSettings,
    side_information: SideInformation | None = None,
    encoders: Sequence[str] = (),
) -> Slot:
    """Caches the latent posteriors of both flips and tokenises the sentences.

    pixels: uint8 (N, R, R, 3). encoders: those that know the word, with OUT where it stands behind one; () for those that the
    settings name. Raises PromptError when the word or its sentences do not suit the tokenizer, and ValueError
    when the settings do not suit the word.
    """
    side_information = side_information or SideInformation()
    backbone.refuse_placeholder(concept.placeholder)
    settings.refuse_vectors(concept.vectors)
    seen = side_information
    names = tuple(encoders) or backbone.encoders_of(settings.encoders, settings.word_place)
    initial = start_vectors(backbone, concept, settings, seen.nearest, seen.pictured, seen.drawn, names)
    anchors = {}
    if settings.regularisation or settings.optimiser == "directional":
        crossed = settings.cross_initialised
        anchors = initial if crossed else backbone.initial_vectors(concept.initializer, concept.vectors, names)
    words = _on_device(_with_own(initial, backbone, settings, pixels), backbone)
    posterior = backbone.encode_images(_both_flips(pixels, settings))
    weights = None
    if side_information.masks is not None:
        height, width = posterior.mean.shape[2:]
        masks = _both_flips(side_information.masks, settings)
        weights = mask_weights(masks, (height, width), settings.background)
    slot = Slot(
        concept=concept,
        settings=settings,
        initial=initial,
        words={name: torch.nn.Parameter(vectors) for name, vectors in words.items()},
        means={name: torch.zeros_like(vectors) for name, vectors in words.items()},
        squares={name: torch.zeros_like(vectors) for name, vectors in words.items()},
        posterior=Posterior(posterior.mean.cpu(), posterior.std.cpu()),
        stages=_stages(backbone, concept, settings, side_information.captions or (None,) * len(pixels), names),
        hold_norm=NormRule(
            backbone,
            names,
            fixed=settings.norm == "vocabulary" or settings.word_place == "output",
            limit=settings.norm_limit,
        ),
        anchors=_on_device(_with_own(anchors, backbone, settings, pixels), backbone) if anchors else {},
        weights=weights,
    )
    if slot.is_directional:
        usual = NormRule(backbone, names, fixed=True)
        usual(slot.words)
        usual(slot.anchors)
    slot.hold_norm(slot.words)
    return slot


def _on_device(tables: dict[str, np.ndarray], backbone: Backbone) -> dict[str, Tensor]:
    return {name: torch.tensor(rows, dtype=torch.float32, device=backbone.device) for name, rows in tables.items()}


def _with_own(
    vectors: dict[str, np.ndarray], backbone: Backbone, settings: InversionSettings, pixels: np.ndarray
) -> dict[str, np.ndarray]:
    """The concept's vectors and, below them, those of the pictures' own words, which start at the vocabulary's mean."""
    if not settings.per_image:
        return vectors
    own = backbone.initial_vectors(None, len(pixels), tuple(vectors))
    return {name: np.concatenate([rows, own[name]]) for name, rows in vectors.items()}


def _both_flips(pixels: np.ndarray, settings: InversionSettings) -> np.ndarray:
    both = np.concatenate([pixels, pixels[:, :, ::-1]]) if settings.flip else pixels
    return np.ascontiguousarray(both)


def _stages(
    backbone: Backbone,
    concept: Concept,
    settings: InversionSettings,
    captions: tuple[str | None, ...],
    encoders: Sequence[str],
) -> tuple[tuple[int, Sentences], ...]:
    counts = range(1, concept.vectors + 1) if settings.progressive else [concept.vectors]
    return tuple(
        (
            round(place * settings.progressive * settings.steps),
            sentences_of(backbone, concept, settings, captions, vectors, encoders),
        )
        for place, vectors in enumerate(counts)
    )
