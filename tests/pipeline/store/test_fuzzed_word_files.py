"""A minute of broken word files: each is a word or a WordFileError."""

import pytest
import torch
from safetensors.torch import save

from pipeline.store.word_files import MAX_BYTES, WordFileError, decode_word
from tests.fuzzing import fuzz
from tests.pipeline.store.test_word_files import OTHERS, with_metadata

WHOLE = [
    *(data for data, _ in OTHERS.values()),
    with_metadata('{"placeholder": "<w>"}'),
    save({"clip_l": torch.ones(2, 8), "clip_g": torch.ones(2, 12).half()}),
    save({"<w>": torch.ones(2, 8, dtype=torch.float8_e4m3fn)}),
]


@pytest.mark.long
def test_broken_word_files_are_words_or_errors_of_ours_within_the_stated_memory() -> None:
    """Catches a traceback in a worker, a file that it hangs on, and one that says it is a thousand times its size."""
    assert fuzz(decode_word, (WordFileError,), WHOLE, seconds=60, megabytes=4 * MAX_BYTES // 1_000_000) > 1_000
