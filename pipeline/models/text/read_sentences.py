"""What a frozen text encoder says of sentences: kept, so that each is read once, and replaced where a word stands behind it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT_BYTES = 2**28  # on the device: 60 prompts of 512 tokens for T5-XXL in half precision, a thousand for a CLIP


@dataclass(frozen=True, slots=True)
class States:
    """What a text encoder says of B prompts.

    states: (B, L, D), what the denoiser is conditioned on. summary: (B, P), the last layer's state where the prompt ends,
    projected by the encoders that have a projection; None for those of which no summary is taken.
    """

    states: Tensor
    summary: Tensor | None = None

    def with_words(self, rows: Tensor, words: Tensor) -> "States":
        """rows: int64 (B, L), the row of `words` (R, D) that stands there; below 0 for none. A row of zeros is no word."""
        places = rows.clamp_min(0)
        there = (rows >= 0) & words.detach().ne(0).any(1)[places]
        return replace(
            self, states=torch.where(there[..., None], F.embedding(places, words.to(self.states)), self.states)
        )

    def hold(self) -> None:
        """Keeps its memory until the stream of this thread has read it, even if it is dropped before."""
        for part in (self.states, self.summary):
            if part is not None and part.is_cuda:
                part.record_stream(torch.cuda.current_stream(part.device))

    @property
    def nbytes(self) -> int:
        return self.states.nbytes + (0 if self.summary is None else self.summary.nbytes)


class ReadSentences:
    """States of sentences read before, those used last within KEPT_BYTES."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, States] = OrderedDict()
        self._bytes = 0
        self._in_use = threading.Lock()

    def states(self, ids: Tensor, read: Callable[[Sequence[Tensor]], list[States]]) -> States:
        """ids: int64 (B, L) on the CPU. read: the states of sentences (L,) that were not read before."""
        keys = [row.tobytes() for row in ids.numpy()]
        with self._in_use:  # one thread trains and another may draw
            states = {key: self._kept[key] for key in keys if key in self._kept}
            new = {key: row for key, row in zip(keys, ids, strict=True) if key not in states}
            states |= dict(zip(new, read(list(new.values())), strict=True)) if new else {}
            for key in new:
                self._kept[key] = states[key]
                self._bytes += states[key].nbytes
            for key in states:
                self._kept.move_to_end(key)
                states[key].hold()
            while self._bytes > KEPT_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        said = [states[key] for key in keys]
        summaries = [each.summary for each in said if each.summary is not None]
        return States(torch.cat([each.states for each in said]), torch.cat(summaries) if summaries else None)
