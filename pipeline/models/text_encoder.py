"""A frozen text encoder with its tokenizer, whose table of token embeddings goes on with the words being learned."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.base import PromptError, split_at_placeholders
from pipeline.models.weights import load_whole


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text encoder of a family: its class, its tokenizer's class, and the tokenizer's folder."""

    encoder: type[Any]
    tokenizer: type[Any]
    tokenizer_folder: str = "tokenizer"


class WordTable(nn.Module):
    """The frozen token embedding `base`, and from id `first` upwards the words being learned."""

    def __init__(self, base: nn.Embedding, first: int) -> None:
        super().__init__()
        self.base, self.first = base, first
        self.words: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (B, L) -> (B, L, D)."""
        known = self.base(ids.clamp_max(self.base.num_embeddings - 1))
        if self.words is None:
            return known
        learned = F.embedding((ids - self.first).clamp_min(0), self.words.to(known.dtype))
        return torch.where((ids >= self.first)[..., None], learned, known)


class TextEncoder:
    """A frozen text encoder with its tokenizer, whose table of words goes on with those that are learned."""

    def __init__(self, part: TextPart, folder: Path, name: str, dtype: torch.dtype) -> None:
        """Raises ValueError, and whatever a broken file makes the libraries raise."""
        self.tokenizer = part.tokenizer.from_pretrained(folder / part.tokenizer_folder)
        self.module = load_whole(part.encoder, folder / name, dtype=dtype)
        self.embedding: nn.Embedding = self.module.get_input_embeddings()
        # A tokenizer that names no limit says 10^30.
        self.context = min(self.tokenizer.model_max_length, self.module.config.max_position_embeddings)
        # CLIP's and BERT's tokenizers have other names for them.
        self.start, self.end = self.tokenizer("").input_ids
        pad = self.tokenizer.pad_token_id
        self.pad = self.end if pad is None else pad

    def learn_words_from(self, first: int) -> None:
        """From now on, ids from `first` upwards are rows of the words given with them."""
        self.table = WordTable(self.embedding, first)
        self.module.set_input_embeddings(self.table)

    def __call__(self, ids: Tensor, words: Tensor | None, **options: bool) -> Any:
        """The module's own output for int64 (B, L), with `words` (rows, D)."""
        # A module takes a Parameter for its own, and no other tensor in that place ever after.
        self.table.words = words if words is None else words.view_as(words)
        try:
            return self.module(ids, **options)
        finally:
            self.table.words = None

    def ids(self, prompt: str, words: Mapping[str, range]) -> list[int]:
        """A prompt, padded to the model's context. Raises PromptError when it does not fit."""
        by_name = {name.lower(): rows for name, rows in words.items()}
        ids: list[int] = []
        for piece in split_at_placeholders(prompt, list(words)):
            rows = by_name.get(piece.lower())
            ids += self.text_ids(piece) if rows is None else [self.table.first + row for row in rows]
        room = self.context - 2
        if len(ids) > room:
            raise PromptError(f"prompt {prompt!r} has {len(ids)} tokens; the model takes {room}: shorten it")
        return [self.start, *ids, self.end, *[self.pad] * (room - len(ids))]

    def text_ids(self, text: str) -> list[int]:
        """Without start, end and padding."""
        # verbose=False: our own error for a long prompt says more than the tokenizer's warning.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """The frozen table, float32 (words, D), copied from the device once; not to be written to."""
        table: np.ndarray = self.embedding.weight.detach().float().cpu().numpy()
        table = table.view()
        table.flags.writeable = False
        return table

    @functools.cached_property
    def _mean(self) -> np.ndarray:
        """float32 (D,): the mean of the vocabulary. That of many words is far shorter than any; this has a word's length."""
        mean: np.ndarray = self.vectors.mean(0)
        return mean * (np.median(np.linalg.norm(self.vectors, axis=1)) / max(np.linalg.norm(mean), 1e-12))

    def whole_words(self) -> set[str]:
        """Words of three letters and more that are one token. A piece of a word comes back from its spelling as another id."""
        ids = range(self.embedding.num_embeddings)
        spelled = [self.tokenizer.decode([each]).strip() for each in ids]
        return {
            word
            for each, word in zip(ids, spelled, strict=True)
            if len(word) > 2 and word.isalpha() and word.isascii() and self.text_ids(word) == [each]
        }

    def initial_vectors(self, text: str | None, count: int) -> np.ndarray:
        """float32 (count, D): the text's own tokens, shared out; None is the mean of the vocabulary. Raises PromptError."""
        if text is None:
            return np.repeat(self._mean[None], count, 0)
        ids = self.text_ids(text)
        if not ids:
            raise PromptError(f"initializer {text!r} has no token in the model's vocabulary")
        rows = self.vectors[ids]
        if len(ids) < count:
            return rows[np.arange(count) % len(ids)]
        return np.stack([part.mean(0) for part in np.array_split(rows, count)])
