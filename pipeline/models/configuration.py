"""Checks a model's configuration files before a library reads them.

They are untrusted like the rest of the model's folder. Some entries make a library run code or load other files: these are
refused, with the file and the entry's name.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.models.tokenizer_files import refuse_costly_steps, refuse_panics
from pipeline.models.weights.weight_files import INDEX, NAMED
from pipeline.store.damaged import most_values

MOST_BYTES, MOST_DEEP = 4_000_000, 32
# Of the largest published tokenizers' files, Gemma's, and of the signs between what is in them.
MOST_LIST_BYTES, MOST_LIST_VALUES = 64_000_000, 8_000_000
# What makes diffusers, transformers or timm run code beside the weights, or load something else than the folder holds.
LOADS_MORE = (
    "auto_map", "trust_remote_code", "code_revision", "custom_pipeline", "custom_pipelines", "custom_generate",
    "base_model_name_or_path", "use_kernels", "transformers_weights", "fast_tokenizer_files", "gguf_file",
    "init_inputs", "tokenizer_object", "audio_tokenizer", "audio_tokenizer_class", "audio_tokenizer_name_or_path",
    "model_args", "backbone_kwargs", "checkpoint_path", "use_timm_backbone", "use_pretrained_backbone",
)  # fmt: skip
# Files of a tokenizer that these name would be opened wherever they lie.
SPECIAL_TOKENS, TOKENIZER = "special_tokens_map.json", "tokenizer_config.json"
OWN_ATTENTION = (None, "eager", "sdpa")  # any other name is that of a package, or of a kernel to be downloaded
# Long lists of words, which are no entries; and what a tokenizer's files end in.
TOKENIZERS, LISTS = "tokenizer.json", ("tokenizer.json", "vocab.json", "added_tokens.json")
TEXTS = (".json", ".txt", ".model", ".jinja")
ADAPTER = "adapter_config.json"  # transformers loads the adapter beside it, from a pickle if there is nothing else
# A kind of model or of image processor, of transformers, that hands its entries to timm, which loads and downloads what they name.
TIMMS = "timm"
QUANTISED = "quantization_config"
# torchao's config of the weights that text encoders are read in: 8-bit numbers, through which gradients reach the word.
INT8 = "Int8WeightOnlyConfig"
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "latent_diffusion")


class ConfigurationError(ValueError):
    """A configuration cannot be read, or has an entry that is not allowed. The message names file, entry and value."""


def read_configuration(path: Path) -> dict[str, Any]:
    """The JSON object in the file. Raises ConfigurationError if it is none, too large, or nested too deeply."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigurationError(f"{path} is larger than {MOST_BYTES // 1_000_000} MB: no configuration is")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not a JSON object ({error})") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} is not a JSON object but a {type(content).__name__}")
    return content


def refuse_over(value: float, most: int, what: str) -> None:
    """Raises ConfigurationError for a size above what any model has, before something is made for it."""
    if not value <= most:
        raise ConfigurationError(f"its configuration states {what} of {value:,.12g}; at most {most:,} are taken")


def refuse_code(folder: Path, *, quantised: bool = False) -> None:
    """Raises ConfigurationError if a configuration right inside the folder would make a library run or load more than it, or
    if a pipe or a device is there, on which a library would wait for ever. quantised: its weights may be.
    """
    top = sorted(folder.iterdir()) if folder.is_dir() else []
    # In folders right inside there may be more of a tokenizer's files, such as its other chat templates.
    for path in (*top, *(each for inside in top if inside.is_dir() for each in sorted(inside.iterdir()))):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ConfigurationError(f"{path} is not a regular file")
        if path.suffix in TEXTS and path.is_file() and path.stat().st_size > MOST_LIST_BYTES:
            raise ConfigurationError(f"{path} is larger than {MOST_LIST_BYTES // 1_000_000} MB: no text of a model is")
    for path in sorted(folder.glob("*.json")):
        if path.name == ADAPTER:
            raise ConfigurationError(
                f"{path}: an adapter is not loaded; merge it into the weights, or remove its files"
            )
        if index := INDEX.fullmatch(path.name):
            _refuse_other_shards(path, index[1] or index[2])
        elif path.name in LISTS:
            _refuse_list(path)
        else:
            configuration = read_configuration(path)
            if path.name == "config.json":
                _refuse_quantised(path, configuration.pop(QUANTISED, None), quantised)
            _refuse_entries(path, configuration)


def _refuse_list(path: Path) -> None:
    data = path.read_bytes()
    if most_values(data) > MOST_LIST_VALUES:
        raise ConfigurationError(f"{path} holds over {MOST_LIST_VALUES:,} values: no list of words does")
    if path.name == TOKENIZERS:
        try:
            stated = json.loads(data)
            refuse_costly_steps(stated if isinstance(stated, dict) else {})
            refuse_panics(data.decode())
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path}: {error}") from None


def _refuse_quantised(path: Path, stated: object, is_read: bool) -> None:
    """Raises ConfigurationError for weights that are quantised, or if `is_read`, in another way than can be read."""
    if not stated:
        return
    told: dict[str, Any] = stated if isinstance(stated, dict) else {}
    kind = told.get("quant_type")
    default = kind.get("default") if isinstance(kind, dict) else None
    name = default.get("_type") if isinstance(default, dict) else kind
    older = "bitsandbytes" if told.get("load_in_8bit") or told.get("load_in_4bit") else "an unnamed method"
    method = str(told.get("quant_method") or older)
    if not is_read or method != "torchao" or name != INT8 or told.get("include_input_output_embeddings"):
        what = f"{method} ({str(name)[:60]})" if method == "torchao" else method
        readable = f"text encoders are read in torchao's {INT8} without the table of words, or not quantised"
        raise ConfigurationError(
            f"{path}: {QUANTISED!r} says that the weights are quantised by {what[:100]}; "
            f"{readable if is_read else 'this part is read not quantised alone'}: take a variant in float16 or bfloat16"
        )
    if importlib.util.find_spec("torchao") is None:
        raise ConfigurationError(
            f"{path}: {QUANTISED!r} says that the weights are quantised by torchao, which is not installed: pip install "
            "'wordmint[quantised]', or take a variant in float16 or bfloat16"
        )


def refuse_parts(folder: Path, parts: Iterable[str]) -> None:
    """The same for a model in diffusers' layout: for model_index.json and for each of the model's parts."""
    for part in parts:
        refuse_code(folder / part, quantised=part.startswith("text_encoder"))
    index = folder / "model_index.json"
    configuration = read_configuration(index)
    _refuse_entries(index, configuration)
    for name, value in configuration.items():
        if isinstance(value, list) and value and value[0] not in (None, *LIBRARIES):
            raise ConfigurationError(
                f"{index}: {name!r} is {value}, a class of a module of its own; only those of diffusers and transformers "
                "are loaded. Take a model without custom code"
            )


def _refuse_entries(path: Path, configuration: dict[str, Any]) -> None:
    for name, value in _entries(configuration, path):
        kernel = name.endswith(("attn_implementation", "experts_implementation", "implementation_internal"))
        opened = (path.name == SPECIAL_TOKENS and name.endswith(("_file", "_files"))) or (
            path.name in (SPECIAL_TOKENS, TOKENIZER) and name in ("vocab", "merges") and isinstance(value, str)
        )
        timms = name in ("model_type", "image_processor_type") and str(value).lower().startswith(TIMMS)
        if ((name in (*LOADS_MORE, QUANTISED) or opened or timms) and value) or (kernel and value not in OWN_ATTENTION):
            raise ConfigurationError(
                f"{path}: {name!r} is {str(value)[:200]!r}, which would make a library run or load more than this folder's "
                "weights; that is never done. Remove the entry, or take a model without it"
            )


def _entries(value: object, path: Path, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All names with their values, however deep."""
    if depth > MOST_DEEP:
        raise ConfigurationError(f"{path} is nested more than {MOST_DEEP} deep: no configuration is")
    if isinstance(value, dict):
        yield from value.items()
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _entries(each, path, depth + 1)


def _refuse_other_shards(path: Path, variant: str | None) -> None:
    """Raises ConfigurationError unless all shards are weights of the folder under the usual names, which the digest covers."""
    shards = read_configuration(path).get("weight_map")
    if not isinstance(shards, dict):
        raise ConfigurationError(f"{path} has no weight_map")
    for name in shards.values():
        named = NAMED.fullmatch(name) if isinstance(name, str) else None
        if not named or (named[2] or named[4]) != variant:
            raise ConfigurationError(
                f"{path} names {str(name)[:200]!r}; weights are loaded from this folder's .safetensors files alone, under the "
                f"names that diffusers and transformers give them{f' for the variant {variant}' if variant else ''}"
            )
