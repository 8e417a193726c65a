"""A frozen text encoder with its tokenizer. Its embedding table is extended by the words being learned."""

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.base import PromptError, split_at_placeholders
from pipeline.models.configuration import read_configuration, refuse_over
from pipeline.models.find import Model
from pipeline.models.text.read_sentences import ReadSentences, States
from pipeline.models.weights.load_weights import load_part

MOST_TOKENS = 4_096
SHOWN = 100  # characters of a prompt that is too long
REST = torch.device("cpu")
ANY_TOKENIZER = ("PreTrainedTokenizer", "TokenizersBackend")  # say nothing of a kind
# Their states have the usual length.
USUAL = ("a photo of a cat", "a painting of a house at night", "a red car on the beach")


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text encoder of a family: its class, its tokenizer's class, and the tokenizer's folder.

    length: tokens of a prompt with its template; None has the model say. before, after: the template around every prompt; a
    tokenizer's own chat template is never run. masked: padding is not attended to.
    layer: of the hidden states that condition the denoiser; None for the last, normalised. summarised: the state at the end of
    the prompt is wanted too.
    """

    encoder: type[Any]
    tokenizer: type[Any]
    tokenizer_folder: str = "tokenizer"
    length: int | None = None
    before: str = ""
    after: str = ""
    masked: bool = False
    layer: int | None = None
    summarised: bool = False


class WordTable(nn.Module):
    """The frozen token embedding `base`; ids from `first` upwards are rows of the words being learned."""

    def __init__(self, base: nn.Embedding, first: int) -> None:
        super().__init__()
        self.base, self.first = base, first
        # Gemma's table scales what it holds, and so must the words be.
        self.scale = getattr(base, "scalar_embed_scale", 1.0)
        self.words: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (B, L) -> (B, L, D)."""
        known = self.base(ids.clamp_max(self.base.num_embeddings - 1))
        if self.words is None:
            return known
        learned = F.embedding((ids - self.first).clamp_min(0), self.words.to(known.dtype))
        if self.scale != 1.0:
            learned = learned * self.scale
        return torch.where((ids >= self.first)[..., None], learned, known)


class TextEncoder:
    """A frozen text encoder with its tokenizer, whose table of words goes on with those that are learned. It can be used once
    `move_to` has been called.
    """

    def __init__(self, part: TextPart, model: Model, name: str, dtype: torch.dtype, *, offload: bool = False) -> None:
        """name: of its folder. offload: it rests in main memory, and takes words behind it alone.

        Raises ValueError, and whatever a broken file makes the libraries raise.
        """
        _refuse_other_kind(part, model.folder, name)
        self.tokenizer = part.tokenizer.from_pretrained(model.folder / part.tokenizer_folder)
        self.module = load_part(model, name, part.encoder, dtype)
        # Of keys and values, for those who generate text.
        self.module.config.get_text_config().use_cache = False
        self._in_use = threading.Lock()
        self.embedding: nn.Embedding = self.module.get_input_embeddings()
        self.before, self.after = part.before, part.after
        self.masked, self.layer, self.summarised = part.masked, part.layer, part.summarised
        self._offload, self._read_before = offload, ReadSentences()
        # A tokenizer that names no limit says 10^30.
        limits = [self.tokenizer.model_max_length, getattr(self.module.config, "max_position_embeddings", None)]
        self.context = part.length or min(limit for limit in limits if limit)
        refuse_over(self.context, MOST_TOKENS, "a text encoder's context")
        self.start, self.end = self._around()
        pad = self.tokenizer.pad_token_id
        self.pad = self.end[-1] if pad is None else pad
        if self.masked and self.pad in self.end:
            raise ValueError(
                f"{model.folder / part.tokenizer_folder} pads with the token that ends a prompt, and must not"
            )

    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before and after any text, such as start and end."""
        text, whole = self.text_ids("a"), list(self.tokenizer("a").input_ids)
        for place in range(len(whole) - len(text) + 1):
            if whole[place : place + len(text)] == text:
                return whole[:place], whole[place + len(text) :]
        raise ValueError(f"{type(self.tokenizer).__name__} writes 'a' as {whole} in a prompt and as {text} alone")

    def learn_words_from(self, first: int) -> None:
        """Makes ids from `first` upwards rows of the words given with them."""
        self.table = WordTable(self.embedding, first)
        self.module.set_input_embeddings(self.table)

    def move_to(self, device: torch.device) -> None:
        """device: where it works."""
        self.device = device
        self.module.to(REST if self._offload else device)

    def read(
        self,
        ids: Tensor,
        host: Tensor,
        words: Tensor | None = None,
        behind: Tensor | None = None,
        *,
        once: bool = False,
    ) -> States:
        """What it says of prompts, int64 (B, L); host: the same on the CPU, with any rows.

        words: (rows, D) of its own words. behind: (rows, D) in the place of its output; a row of zeros is no word. once: without
        words of its own, each sentence is read once and without a gradient. Raises PromptError for words that an encoder at
        rest would have to read.
        """
        if words is None and (once or self._offload):
            said = self._read_once(host)
        elif self._offload:
            raise PromptError(
                f"{type(self.module).__name__} is kept off the GPU, and takes words behind it alone: learn them with "
                "--word-place output, or keep it there"
            )
        else:
            said = self._said(ids, words)
        return said if behind is None else said.with_words(ids - self.table.first, behind)

    def _said(self, ids: Tensor, words: Tensor | None) -> States:
        options = {} if self.layer is None else {"output_hidden_states": True}
        output = self(ids, words, **options)
        states = output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
        if not self.summarised:
            return States(states)
        # The encoder's own pooling may look for the highest id, as the published SDXL's does: a learned word's is higher.
        ends = (ids == self.end[-1]).int().argmax(dim=1)
        summary = output.last_hidden_state[torch.arange(len(ends), device=ends.device), ends]
        projection = getattr(self.module, "text_projection", None)
        return States(states, summary if projection is None else projection(summary))

    @torch.no_grad()
    def _read_once(self, ids: Tensor) -> States:
        """ids: on the CPU. Every learned word in them is read as a row of zeros."""
        same = ids.clamp_max(self.table.first)
        return self._read_before.states(same, self._read_some)

    def _read_some(self, sentences: Sequence[Tensor]) -> list[States]:
        """Each by itself, so that it does not depend on what it is read beside."""
        if self._offload:
            self.module.to(self.device)
        try:
            zeros = torch.zeros(1, self.embedding.embedding_dim, device=self.device)
            return [self._said(ids[None].to(self.device), zeros) for ids in sentences]
        finally:
            # The other thread reads them on a stream of its own, which does not wait for this one.
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
            if self._offload:
                self.module.to(REST)

    def __call__(self, ids: Tensor, words: Tensor | None, **options: Any) -> Any:
        """The module's own output for int64 (B, L), with `words` (rows, D)."""
        if self.masked:
            options["attention_mask"] = self.mask(ids).long()
        with self._in_use:  # one thread trains and another may draw, and the table has one place for words
            # A module takes a Parameter for its own, and no other tensor in that place ever after.
            self.table.words = words if words is None else words.view_as(words)
            try:
                return self.module(ids, **options)
            finally:
                self.table.words = None

    def mask(self, ids: Tensor) -> Tensor:
        """bool (B, L) for ids (B, L): all but the padding at the end."""
        return (ids != self.pad).flip(1).cummax(1).values.flip(1)

    def ids(self, prompt: str, words: Mapping[str, range]) -> list[int]:
        """A prompt in its template, padded to the model's context. Raises PromptError when it does not fit."""
        by_name = {name.lower(): rows for name, rows in words.items()}
        ids: list[int] = []
        for piece in split_at_placeholders(f"{self.before}{prompt}{self.after}", list(words)):
            rows = by_name.get(piece.lower())
            ids += self.text_ids(piece) if rows is None else [self.table.first + row for row in rows]
        return self._padded(ids, prompt)

    def _padded(self, ids: list[int], prompt: str) -> list[int]:
        room = self.context - len(self.start) - len(self.end)
        if len(ids) > room:
            shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
            raise PromptError(f"prompt {shown!r} has {len(ids)} tokens; the model takes {room}: shorten it")
        return [*self.start, *ids, *self.end, *[self.pad] * (room - len(ids))]

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
        """float32 (D,): the vocabulary's mean, scaled to a word's length. The mean itself is far shorter than any word."""
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
        return _shared_out(self.vectors[ids], count)

    @torch.no_grad()
    def output_vectors(self, text: str | None, count: int) -> np.ndarray:
        """float32 (count, D): the encoder's last states at the text's own tokens, shared out. Raises PromptError."""
        ids = self.text_ids(text) if text else []
        if not ids:
            raise PromptError(
                "cross initialisation needs an initializer, or a class, with a token in the model's vocabulary"
            )
        whole = torch.tensor([[*self.start, *ids, *self.end]], device=self.embedding.weight.device)
        states = self(whole, self.embedding.weight[:1])
        rows = getattr(states, "last_hidden_state", states)[0, len(self.start) : len(self.start) + len(ids)]
        if rows.shape[1] != self.vectors.shape[1]:
            raise PromptError(
                f"cross initialisation: this text encoder's output has {rows.shape[1]} numbers and its words have "
                f"{self.vectors.shape[1]}"
            )
        return _shared_out(rows.float().cpu().numpy(), count)

    def _states_of(self, sentence: str, text: str) -> np.ndarray:
        """float32 (N, D): what it says of the text's N tokens where the sentence has "{}"."""
        before, after = f"{self.before}{sentence}{self.after}".split("{}")
        first, own = self.text_ids(before), self.text_ids(text)
        if not own:
            raise PromptError(f"initializer {text!r} has no token in the model's vocabulary")
        ids = self._padded([*first, *own, *self.text_ids(after)], text)
        states = self._read_once(torch.tensor([ids])).states[0, len(self.start) + len(first) :][: len(own)]
        return states.float().cpu().numpy()

    @functools.cached_property
    def _usual_states(self) -> np.ndarray:
        """float32 (N, D): what it says of usual sentences, token by token."""
        return np.concatenate([self._states_of("{}", sentence) for sentence in USUAL])

    @functools.cached_property
    def usual_states_length(self) -> float:
        return float(np.linalg.norm(self._usual_states, axis=1).mean())

    def initial_states(self, text: str | None, count: int) -> np.ndarray:
        """float32 (count, D), at the usual length: what it says of the text in a sentence, shared out; of usual sentences, in the
        mean, for None. Raises PromptError.
        """
        rows = self._usual_states.mean(0, keepdims=True) if text is None else self._states_of("a photo of a {}", text)
        rows = _shared_out(rows, count)
        return rows * (self.usual_states_length / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _shared_out(rows: np.ndarray, count: int) -> np.ndarray:
    """(N, D) -> (count, D): means of as many runs of rows, or rows again and again."""
    if len(rows) < count:
        return rows[np.arange(count) % len(rows)]
    return np.stack([part.mean(0) for part in np.array_split(rows, count)])


def _refuse_other_kind(part: TextPart, folder: Path, name: str) -> None:
    """Raises ValueError for a text encoder, or a tokenizer, of another kind than the family has. With a similar one words would be
    learned for nothing.
    """
    for file, entry, wanted in (
        (folder / name / "config.json", "model_type", part.encoder.config_class.model_type),
        (folder / part.tokenizer_folder / "tokenizer_config.json", "tokenizer_class", part.tokenizer.__name__),
    ):
        stated = str((read_configuration(file) if file.is_file() else {}).get(entry) or wanted).removesuffix("Fast")
        if not wanted.startswith(stated) and stated not in ANY_TOKENIZER:  # "clip" may stand for "clip_text_model"
            raise ValueError(
                f"{file} states {entry} {stated[:100]!r}, and this family has {wanted!r}: put its own {name} and "
                f"{part.tokenizer_folder} there"
            )
