"""The interface of frozen text-to-image models: what a model family has to provide."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.records import AGAINST, OUT
from pipeline.settings import FastMode, FlowTimes, WordPlace

Known = Mapping[
    str, Collection[str]
]  # placeholder -> text encoders that know the word, with OUT where it stands behind one
# Around the number that tells a word from others of the same spelling: characters that no prompt has.
ALIAS = ("\ue000", "\ue001")


class PromptError(ValueError):
    """A prompt or placeholder that does not fit the model's tokenizer or context."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """The first stage's posterior for N pictures: mean and std of their scaled latents, each float32 (N, C, h, w)."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """Prompts as token ids, int64 (B, L); for several text encoders, their ids one after the other.

    Ids from the vocabulary's size upwards are rows of the words given beside them. host: the same ids on the CPU, whatever
    rows they name, so that a sentence that was read before is recognised without waiting for the device.
    """

    ids: Tensor
    host: Tensor | None = None

    def shifted(self, vocabulary: int, rows: Tensor) -> "Tokens":
        """The same prompts with their words' rows moved down the table by `rows`, int64 (B, 1)."""
        return Tokens(torch.where(self.ids >= vocabulary, self.ids + rows, self.ids), self.host)


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The denoiser's conditioning for B prompts.

    context: (B, L, width), attended to. pooled: (B, P), one vector a prompt, for models that take one.
    mask: bool (B, L), True where the context counts, for models that take one.
    """

    context: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


class Backbone(ABC):
    """A frozen model. Its weights get no gradients, but gradients flow through it to the words.

    resolution: side of its pictures in pixels. evaluations: passes through the denoiser so far, of any batch size.
    """

    name: str
    resolution: int
    vocabulary: int
    evaluations: int
    device: torch.device

    @property
    @abstractmethod
    def encoders(self) -> Mapping[str, int]:
        """Text encoder -> width D of its words."""

    @property
    @abstractmethod
    def word_keys(self) -> Mapping[str, str]:
        """Text encoder -> its key in word files of several text encoders. Those that a word can stand behind are there twice, the
        second time with OUT.
        """

    @property
    @abstractmethod
    def word_widths(self) -> Mapping[str, int]:
        """The same names -> width D of a word's vectors there."""

    @abstractmethod
    def architecture_of(self, vectors: Mapping[str, np.ndarray]) -> str:
        """The model's name in word files' metadata; vectors: of a word, text encoder -> (V, D)."""

    @abstractmethod
    def encode_images(self, pixels: np.ndarray) -> Posterior:
        """uint8 (N, R, R, 3) -> the posterior of their latents."""

    @abstractmethod
    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents (N, C, h, w) -> uint8 (N, R, R, 3)."""

    @abstractmethod
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of that many pixels a side."""

    def encoders_of(self, keys: Collection[str], place: WordPlace = "input") -> tuple[str, ...]:
        """The names, with OUT for the place "output", of the text encoders with these keys in word files; of all for none.

        Raises ValueError for an unknown key.
        """
        ending = OUT if place == "output" else ""
        there = {
            key.removesuffix(ending): name
            for name, key in self.word_keys.items()
            if name.endswith(OUT) == (place == "output")
        }
        if unknown := set(keys) - set(there):
            raise ValueError(f"{min(unknown)!r} is no text encoder of {self.name}: {', '.join(there)}")
        return tuple(name for key, name in there.items() if not keys or key in keys)

    @abstractmethod
    def tokenise(self, prompts: Sequence[str], words: Mapping[str, range], known: Known | None = None) -> Tokens:
        """Prompts in which every placeholder of `words` stands for the rows of that range.

        known: placeholder -> the text encoders that know the word, where that is not all of them. The others read it as text.
        Raises PromptError when a prompt and its words do not fit into the model's context.
        """

    @abstractmethod
    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        """words: text encoder -> (rows, D), for those that know any of them; with OUT for words behind it, where a row of zeros is
        no word. A text encoder with words behind it alone reads each sentence once, without a gradient.
        """

    def embed_guided(
        self, prompts: Sequence[str], rows: Mapping[str, range], words: Mapping[str, Tensor], known: Known | None = None
    ) -> Conditioning:
        """For classifier-free guidance of B prompts, 2 B: their negative prompts, empty where there is none, then the prompts.

        prompts: each with its negative prompt behind AGAINST, if it has one. rows, words, known: as for `tokenise` and `embed`.
        Raises PromptError.
        """
        wanted, against = apart(prompts)
        return self.embed(self.tokenise(against + wanted, rows, known), words)

    @abstractmethod
    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output for noisy latents (B, C, h, w) at times (B,), of their shape and precision."""

    def predict_guided(self, noisy: Tensor, time: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Classifier-free guidance (Ho and Salimans 2022) of noisy latents (B, C, h, w), all at one time.

        conditioning: of `embed_guided`. guidance: the guidance scale, 1 for none.
        """
        twice = torch.cat([noisy, noisy])
        without, with_prompt = self.predict(twice, time.expand(len(twice)), conditioning).chunk(2)
        return without + guidance * (with_prompt - without)

    @abstractmethod
    def predict_in_training(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """`predict`, in the way that `make_faster` set up."""

    @abstractmethod
    def make_faster(self, mode: FastMode, batch: int, resolution: int) -> None:
        """Compiles or captures the denoiser for training batches of up to `batch` pictures.

        Raises NotFasterError and torch.OutOfMemoryError, with the model as it was.
        """

    @abstractmethod
    def make_usual(self) -> bool:
        """Undoes `make_faster`. Returns whether there was something to undo."""

    @abstractmethod
    def times(self, places: Tensor, parts: int, size: tuple[int, int], flow_times: FlowTimes) -> Tensor:
        """The model's times (B,) for places float64 (B,), spread evenly over [0, parts): int64, or float32 for a flow.

        size: (h, w) of the latents, by which some flows shift their times.
        """

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The forward process: Ho et al. 2020, equation 4, or a flow's straight path."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The target of `predict`: the noise, the velocity of Salimans and Ho 2022, or a flow's velocity."""

    @abstractmethod
    def signal_to_noise(self, times: Tensor) -> Tensor:
        """The signal-to-noise ratio (of variances) of latents that `add_noise` made: float32 (B,)."""

    @property
    @abstractmethod
    def predicts_velocity(self) -> bool:
        """Whether `target` is a velocity."""

    @abstractmethod
    def checkpoint_gradients(self, on: bool) -> bool:
        """Switches gradient checkpointing of the denoiser. Returns whether it is on; False if the model has none."""

    @abstractmethod
    def loss_scale(self, values: int) -> float:
        """The factor for a mean of that many squared errors, so that its gradient does not underflow in the model's precision."""

    @abstractmethod
    def scheduler(self, sampler: str, steps: int, size: tuple[int, int]) -> Any:
        """A fresh diffusers scheduler for latents of (h, w), its timesteps set.

        Raises ValueError for a sampler that is unknown or does not suit the model.
        """

    @abstractmethod
    def initial_vectors(self, text: str | None, count: int, names: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Text encoder -> float32 (count, D), the start vectors of a word; of the vocabulary's mean for None.

        names: of `word_keys`; () for all text encoders, and none that a word stands behind. There, it is what the text encoder
        says of the text, at the usual length.
        """

    @abstractmethod
    def usual_length(self, name: str) -> float:
        """The mean length of a text encoder's word vectors, or with OUT of what it says of usual sentences."""

    @abstractmethod
    def output_vectors(self, text: str | None, count: int) -> dict[str, np.ndarray]:
        """Text encoder -> float32 (count, D), its output at the text's tokens (Pang et al. 2023, Cross Initialization).

        Raises PromptError for no text, and for an encoder whose output has another width than its words.
        """

    @abstractmethod
    def vocabulary_vectors(self, encoder: str) -> np.ndarray:
        """The frozen table of a text encoder's word embeddings, float32 (words, D)."""

    @abstractmethod
    def vocabulary_words(self) -> list[str]:
        """Whole words of letters that are one token in every text encoder, in alphabetical order."""

    @abstractmethod
    def refuse_placeholder(self, placeholder: str) -> None:
        """Raises PromptError when the placeholder already means something to the tokenizer."""

    @abstractmethod
    def weights_digest(self) -> str:
        """Hex sha256 of all weights as they are in memory now. If it changes during a run, the model was not frozen."""


def apart(prompts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The prompts, and the negative prompt of each.

    >>> apart(["a cat", f"a dog{AGAINST}<blurred>"])
    (['a cat', 'a dog'], ['', '<blurred>'])
    """
    parts = [prompt.partition(AGAINST) for prompt in prompts]
    return [wanted for wanted, _, _ in parts], [against for _, _, against in parts]


def alias(number: int | str, placeholder: str = "") -> str:
    """A name of its own for a word that shares its placeholder with others of a batch; `spelled` is the way back."""
    return f"{ALIAS[0]}{number}{ALIAS[1]}{placeholder}"


def spelled(name: str) -> str:
    """The placeholder as a person writes it.

    >>> spelled(alias(3, "<owl>")), spelled("<owl>")
    ('<owl>', '<owl>')
    """
    return name.rpartition(ALIAS[1])[2]


def placeholder_pattern(placeholders: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds placeholders in a sentence, leftmost and longest first, in any case, as tokenizers do.

    They are found as whole words: one that begins or ends with a letter or digit is not found next to another letter or digit.

    >>> placeholder_pattern(["owl", "<cat>"]).findall("an Owl in a bowl, and <cat>s")
    ['Owl', '<cat>']
    """
    longest_first = sorted(placeholders, key=len, reverse=True)
    return re.compile("|".join(map(_whole, longest_first)) or r"(?!)", re.IGNORECASE)


def in_its_place(sentence: str, placeholder: str, text: str) -> str:
    """The sentence with `text`, as it is, wherever the placeholder stands.

    >>> in_its_place("a photo of <cat> at night", "<cat>", "a tabby")
    'a photo of a tabby at night'
    """
    return placeholder_pattern([placeholder]).sub(lambda _: text, sentence)


def _whole(name: str) -> str:
    before = r"(?<!\w)" if re.match(r"\w", name) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", name) else ""
    return before + re.escape(name) + after


def split_at_placeholders(prompt: str, placeholders: Sequence[str]) -> list[str]:
    """The prompt cut into placeholders and the text between them.

    Cutting before tokenising is what a tokenizer does with added tokens; replacing inside strings would corrupt
    names that begin alike ("<cat>" and "<cat>-2").
    """
    return [
        piece
        for piece in re.split(f"({placeholder_pattern(placeholders).pattern})", prompt, flags=re.IGNORECASE)
        if piece
    ]


def refuse_ambiguous(placeholder: str, sentence: str) -> None:
    """sentence: without the learned word. Raises PromptError if the placeholder is one of its words."""
    if placeholder_pattern([placeholder]).search(sentence):
        raise PromptError(
            f"placeholder {placeholder!r} is a word of the sentence {sentence.strip()!r}: choose another, like <{placeholder}>"
        )
