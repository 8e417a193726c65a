"""Text encoders of transformers that no family has yet work through the same class: the same states and gradients as their own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.models.find import Model
from pipeline.models.text.text_encoder import TextEncoder, TextPart

ENTRIES = ["<pad>", "<unk>", "a", "photo", "of", "cat", "at", "night", "red", "car"]
SMALL: dict[str, Any] = {
    "vocab_size": len(ENTRIES), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
FEW_KEYS = {**SMALL, "num_key_value_heads": 2}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("LlamaModel", "LlamaConfig", FEW_KEYS),
    "Mistral": ("MistralModel", "MistralConfig", FEW_KEYS),
    "Qwen2": ("Qwen2Model", "Qwen2Config", FEW_KEYS),
    "Gemma": ("GemmaModel", "GemmaConfig", {**FEW_KEYS, "head_dim": 8}),
    "Phi-3": ("Phi3Model", "Phi3Config", FEW_KEYS),
    "BERT": ("BertModel", "BertConfig", SMALL),
    "XLM-RoBERTa": ("XLMRobertaModel", "XLMRobertaConfig", SMALL),
    "UMT5": (
        "UMT5EncoderModel",
        "UMT5Config",
        {
            "vocab_size": len(ENTRIES),
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
        },
    ),
}


def saved(name: str, folder: Path) -> tuple[type[Any], Model]:
    kind, config, told = KINDS[name]
    encoder = getattr(transformers, kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder(getattr(transformers, config)(**told)).save_pretrained(folder / "text_encoder")
    words = Tokenizer(models.WordLevel({entry: index for index, entry in enumerate(ENTRIES)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        folder / "tokenizer"
    )
    assert (
        json.loads((folder / "text_encoder/config.json").read_text())["model_type"] == encoder.config_class.model_type
    )
    return encoder, Model("any", folder, "none", "")


@pytest.mark.parametrize("layer", [None, -2], ids=["last", "before"])
@pytest.mark.parametrize("name", KINDS)
def test_a_word_in_any_text_encoder_has_the_states_and_gradients_of_its_own_class(
    name: str, layer: int | None, tmp_path: Path
) -> None:
    """Catches a table that a class reads in another place, scales, or looks up past our words."""
    torch.set_num_threads(1)
    kind, model = saved(name, tmp_path)
    part = TextPart(kind, transformers.PreTrainedTokenizerFast, length=12, masked=True, layer=layer)
    ours = TextEncoder(part, model, "text_encoder", torch.float64)
    ours.module.requires_grad_(False).eval().set_attn_implementation("eager")
    ours.learn_words_from(len(ENTRIES))
    ours.move_to(torch.device("cpu"))
    words = torch.randn(2, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    prompts = ["a photo of <c> at night", "a <c>"]
    ids = torch.tensor([ours.ids(prompt, {"<c>": range(2)}) for prompt in prompts])
    said = ours.read(ids, ids, words).states

    theirs = kind.from_pretrained(tmp_path / "text_encoder", dtype=torch.float64, attn_implementation="eager").eval()
    theirs.resize_token_embeddings(len(ENTRIES) + 2, mean_resizing=False)
    table = theirs.get_input_embeddings().weight
    table.data[-2:] = words.detach()
    output = theirs(ids, attention_mask=(ids != 0).long(), output_hidden_states=True)
    wanted = output.last_hidden_state if layer is None else output.hidden_states[layer]

    there = ids != 0  # what padding says is nobody's
    torch.testing.assert_close(said[there], wanted[there])
    (gradient,) = torch.autograd.grad(said[there].square().sum(), [words])
    (their_gradient,) = torch.autograd.grad(wanted[there].square().sum(), [table])
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, their_gradient[-2:])
    assert ours.vectors.shape == (len(ENTRIES), 32)
    behind = ours.read(ids, ids, None, torch.ones(2, 32, dtype=torch.float64), once=True).states
    assert (behind[ids >= len(ENTRIES)] == 1).all()
    assert ours.initial_vectors("red car", 2).shape == ours.initial_states("red car", 2).shape == (2, 32)
