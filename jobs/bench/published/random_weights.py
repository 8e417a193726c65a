"""Writes a model with random weights in diffusers' layout, from where it is loaded as any other."""

import json
import string
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import BertTokenizer, CLIPTokenizer, GemmaTokenizer, PreTrainedModel, Qwen2Tokenizer, T5Tokenizer

from jobs.bench.published.architectures import CONTEXT, Architecture, parts_of
from pipeline.models.find import MINI_FOLDER

FIRST_STAGES = ("vae", "vqvae")  # in float32
DRAWN = 16_777_213  # numbers; a prime, so that no weight's rows repeat
SHARD = "2GB"
CHAT = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"""
LETTERS = [*string.ascii_lowercase, "<", ">", "-", ",", "."]


def save(made: Architecture, folder: Path, dtype: torch.dtype) -> None:
    """One part in memory at a time, and a shard of it. The tokenizers know letters, or the mini model's words; the tables of
    words have the published sizes.
    """
    drawn = torch.empty(DRAWN).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    parts = parts_of(made)
    for part in list(parts):
        module = parts.pop(part).to(torch.float32 if part in FIRST_STAGES else dtype).to_empty(device="cpu")
        if isinstance(module, PreTrainedModel):
            module.tie_weights()
        _fill(module, drawn)
        module.save_pretrained(folder / part, max_shard_size=SHARD)  # type: ignore[operator]
        del module
    for tokenizer, kind in made.tokenizers.items():
        TOKENIZERS[kind]().save_pretrained(folder / tokenizer)
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(made.scheduler), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": made.pipeline}), encoding="utf-8")


@torch.no_grad()
def _fill(module: nn.Module, drawn: Tensor) -> None:
    """Normal numbers, ones and zeros. The drawn ones are used again and again, each weight beginning where the last one ended: to
    draw billions takes longer than the steps to be measured, and neither time nor memory of a step depends on them.
    """
    at = 0
    for name, value in module.named_parameters():
        if value.ndim == 1:
            value.fill_(float(name.endswith("weight")))
            continue
        left = value.view(-1)
        while len(left):
            some = drawn[at : at + len(left)]
            left[: len(some)] = some
            left, at = left[len(some) :], (at + len(some)) % len(drawn)


def _t5() -> T5Tokenizer:
    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    return T5Tokenizer(vocab=[*special, ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)], extra_ids=0)


def _gemma() -> GemmaTokenizer:
    entries = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    return GemmaTokenizer(vocab={entry: index for index, entry in enumerate(entries)}, add_bos_token=True)


def _qwen() -> Qwen2Tokenizer:
    """With a chat template, since Z-Image sets its prompts into one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={entry: index for index, entry in enumerate((*letters, "<|endoftext|>"))}, merges=[]
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def _bert() -> BertTokenizer:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    return BertTokenizer(vocab={entry: index for index, entry in enumerate(entries)})


TOKENIZERS = {
    "bert": _bert, "gemma": _gemma, "qwen": _qwen, "t5": _t5,
    "clip": lambda: CLIPTokenizer.from_pretrained(MINI_FOLDER / "tokenizer", model_max_length=CONTEXT),
}  # fmt: skip
