"""The mini model's tokenizer: a byte-level BPE of about 1,500 entries in CLIP's own format.

The vocabulary holds all 256 byte symbols and their end-of-word forms, as CLIP's does, so that any text tokenises.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

CONTEXT = 32
START, END = "<|startoftext|>", "<|endoftext|>"
SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def train_tokenizer(captions: Iterable[str], merges: int, folder: Path) -> CLIPTokenizer:
    """Learns `merges` merges from the captions and saves the tokenizer (vocab.json, merges.txt, ...) to `folder`."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # A merge of letters inside words first yields letters, so the learner's budget counts its alphabet too.
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=merges + 2 * len(symbols),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=symbols,
        end_of_word_suffix="</w>",
    )
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    pairs: Any = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in learned][:merges]
    entries = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair) for pair in pairs)]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys([*entries, START, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    # Older readers of the format look for the two files rather than for tokenizer.json.
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in pairs) + "\n", encoding="utf-8"
    )
    return CLIPTokenizer.from_pretrained(folder)
