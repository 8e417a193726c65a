"""Tiny vision-language models of random weights, one a family, built from transformers' own classes and saved as it saves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SIDE = 32
# A chat template that would never end: judges do not run the templates of their folders.
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


def tokenizer(*special: str, **named: str) -> Any:
    """Of bytes, and of Yes, yes and " yes". special: its special tokens. named: those that processors ask for by name."""
    trained: Any = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>", "</s>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    trained.train_from_iterator(["Yes yes No no"] * 50, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=named
    )


def clip_pictures() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def llava() -> tuple[Any, Any]:
    words = tokenizer("<image>", image_token="<image>")
    processor: Any = transformers.LlavaProcessor(
        image_processor=clip_pictures(), tokenizer=words, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=ENDLESS,
    )  # fmt: skip
    config: Any = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SIZES, image_size=SIDE, patch_size=8),
        text_config=transformers.LlamaConfig(**SIZES, vocab_size=len(words), max_position_embeddings=512),
        image_token_index=words.convert_tokens_to_ids("<image>"), image_seq_length=16, vision_feature_layer=-1,
    )  # fmt: skip
    return processor, transformers.LlavaForConditionalGeneration(config)


def qwen2_vl() -> tuple[Any, Any]:
    special = (
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    )  # fmt: skip
    words = tokenizer(*special)
    limits: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}
    processor: Any = transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**limits),
        tokenizer=words,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=ENDLESS,
    )
    ids = {name.strip("<|>"): words.convert_tokens_to_ids(name) for name in special}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    config: Any = transformers.Qwen2VLConfig(
        text_config={**SIZES, "num_key_value_heads": 2, "vocab_size": len(words), "rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"], vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    return processor, transformers.Qwen2VLForConditionalGeneration(config)


def paligemma() -> tuple[Any, Any]:
    words = tokenizer("<image>", image_token="<image>")
    pictures: Any = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    pictures.image_seq_length = 16
    processor: Any = transformers.PaliGemmaProcessor(pictures, words)
    config: Any = transformers.PaliGemmaConfig(
        vision_config={**SIZES, "image_size": SIDE, "patch_size": 8, "projection_dim": 32, "model_type": "siglip_vision_model"},
        text_config=transformers.GemmaConfig(**SIZES, num_key_value_heads=2, head_dim=16, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"), projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return processor, transformers.PaliGemmaForConditionalGeneration(config)


def blip_2() -> tuple[Any, Any]:
    words = tokenizer()
    processor: Any = transformers.Blip2Processor(
        transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE}), words, num_query_tokens=4
    )
    config: Any = transformers.Blip2Config(
        vision_config={**SIZES, "image_size": SIDE, "patch_size": 8, "initializer_range": 0.5},
        qformer_config={**SIZES, "vocab_size": 50, "encoder_hidden_size": 32},
        text_config=transformers.OPTConfig(
            hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32,
            vocab_size=len(words), max_position_embeddings=512,
        ),
        num_query_tokens=4, image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return processor, transformers.Blip2ForConditionalGeneration(config)


def instructblip() -> tuple[Any, Any]:
    words, asked = tokenizer(), tokenizer()
    processor: Any = transformers.InstructBlipProcessor(
        transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE}), words, asked, num_query_tokens=4
    )
    config: Any = transformers.InstructBlipConfig(
        vision_config={**SIZES, "image_size": SIDE, "patch_size": 8, "initializer_range": 0.5},
        qformer_config={**SIZES, "vocab_size": len(asked), "encoder_hidden_size": 32},
        text_config={
            "model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": len(words),
            "decoder_start_token_id": 0, "pad_token_id": 0,
        },
        num_query_tokens=4, image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return processor, transformers.InstructBlipForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava, "qwen2_vl": qwen2_vl, "paligemma": paligemma, "blip-2": blip_2, "instructblip": instructblip,
}  # fmt: skip


def save_answering_judge(folder: Path, family: str = "llava") -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        processor, model = FAMILIES[family]()
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
