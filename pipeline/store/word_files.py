"""Words as files, in the layouts that other programs read and write.

| layout | content |
|---|---|
| diffusers | {placeholder: (V, D)}; `load_textual_inversion` reads it as it is |
| AUTOMATIC1111 | .safetensors {"emb_params": (V, D)}, kohya's too; .pt {"string_to_param": {"*": (V, D)}, "name": ...} |
| several text encoders | {"clip_l": (V, D), "t5": ...}, those that know the word; OneTrainer's, and diffusers' trainers' |
| ComfyUI | the same, with T5's rows called "t5xxl" |
| behind a text encoder | {"t5_out": (V, D), ...}; OneTrainer's, which adds "t5" of zeros, what the text encoder reads there |
| OneTrainer, one text encoder | "emp_params", "emp_params_out" in the place of "emb_params" |

A word of several vectors becomes `<name>`, `<name>_1`, ... in diffusers, and the placeholder in its prompts stands for all
of them. Files are read by what is in them, whatever they are called, and nothing is unpickled. We write safetensors only.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load

from pipeline.records import OUT
from pipeline.store.damaged import kind_of
from pipeline.store.model_spec import (
    ARCHITECTURE,
    LONGEST_NAME,
    MOST_HEADER,
    NEGATIVE,
    WordSpec,
    metadata_of,
    trigger_of,
    with_metadata,
    without_metadata,
)
from pipeline.store.torch_files.pickled_text import StoredTensor
from pipeline.store.torch_files.torch_archive import BEGINNINGS, TorchFile, TorchFileError

FIRST = "text_encoder"  # of a file that does not say for which text encoder its only word is
# What the rows of several text encoders are called in a file, and other programs' names for the same.
KEYS = ("clip_l", "clip_g", "t5", "gemma", "qwen", "llama", "bert")
SPELLINGS = {"t5xxl": "t5"}
COMFYUI = {"t5": "t5xxl"}
A1111 = "emb_params"
ONETRAINER = {
    "clip_l": "emp_params",
    "clip_l_out": "emp_params_out",
}  # its spelling, where that is the only text encoder
NAMELESS = (A1111, "emp_params", "*")
NAME = "placeholder"  # among the metadata, where the tensors' own names say nothing of the word
Layout = Literal["diffusers", "a1111", "comfyui", "onetrainer"]
# Far beyond the widest text encoders and the longest words that anybody has published.
MOST_VECTORS, MOST_WIDE = 1_024, 16_384
MAX_BYTES = 50_000_000  # of a file; the widest words of the most vectors take half a megabyte
MOST_WORDS = 20  # a file with more tensors is a model
MOST_TENSORS = 10_000  # that are read to tell a model, or a LoRA, for what it is
MODEL = "it is a model's checkpoint, not a word"
# Parts of the tensors' names in what people save in a word's place.
FOREIGN = (
    (("lora_", ".lora.", "_lora.", "hada_w", "lokr_w", "oft_blocks"), "it is a LoRA, not a word"),
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "down_blocks.", "control_model."), MODEL),
)


class WordFileError(ValueError):
    """Bytes that are not a word file, or a word that does not suit the model."""


def encode_word(
    placeholder: str,
    vectors: Mapping[str, np.ndarray],
    keys: Mapping[str, str] = MappingProxyType({FIRST: "clip_l"}),
    layout: Layout = "diffusers",
    spec: WordSpec | None = None,
) -> bytes:
    """vectors: text encoder -> float32 (V, D), of those that know the word; with OUT for a word behind one.

    keys: all of these names that the model has -> one of KEYS, or one with OUT. spec: what the file says of the word in its
    metadata. Raises ValueError for a word that stands where programs of the layout have no place for it.
    """
    behind = [keys[name] for name in vectors if name.endswith(OUT)]
    if behind and layout in ("a1111", "comfyui"):
        raise ValueError(
            f"{placeholder} stands behind its text encoder ({', '.join(behind)}), where programs of the layout {layout!r} have no "
            "place for it; choose 'onetrainer' or 'diffusers'"
        )
    alone = sum(not name.endswith(OUT) for name in keys) == 1
    spelled = {"comfyui": COMFYUI, "onetrainer": ONETRAINER if alone else {}}.get(layout, {})
    if not alone or behind or layout == "onetrainer" or (layout == "comfyui" and "t5" in keys.values()):
        tensors = {spelled.get(keys[name], keys[name]): value for name, value in vectors.items()}
    else:
        (only,) = vectors.values()
        tensors = {placeholder if layout == "diffusers" else A1111: only}
    named = {} if placeholder in tensors else {NAME: placeholder}
    data = save({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, named or None)
    return with_metadata(data, {**named, **spec.metadata(placeholder)}) if spec else data


def decode_word(data: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """The placeholder, "" if the file does not say, and key -> float32 (V, D). Raises WordFileError.

    The keys are of KEYS, or FIRST where the file has one word and does not say for which text encoder; see `suited`. With OUT for
    a word behind it.
    """
    if len(data) > MAX_BYTES:
        raise WordFileError(f"it is larger than {MAX_BYTES // 1_000_000} MB, which no word is: a model, or a LoRA?")
    name, tensors = _read_torch(data) if data.startswith(BEGINNINGS) else _read_safetensors(data)
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise WordFileError(
            f"it calls its word {name[:40]!a}, of {len(name):,} characters; a name has at most {LONGEST_NAME}, all printable"
        )
    vectors = {encoder: _matrix(encoder, value) for encoder, value in tensors.items()}
    if len(set(map(len, vectors.values()))) > 1:
        counts = ", ".join(f"{key} has {len(value)}" for key, value in sorted(vectors.items()))
        raise WordFileError(f"the text encoders' words have unequal numbers of vectors: {counts}")
    return name, vectors


def suited(
    vectors: Mapping[str, np.ndarray], widths: Mapping[str, int] | None, keys: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """A file's vectors under the names of a model's text encoders.

    A word need not be in all of them, but each of its vectors is for one of them.
    widths: text encoder -> width D, None where they are not known yet. keys: text encoder -> its key in word files.
    Raises WordFileError.
    """
    inputs = [name for name in keys if not name.endswith(OUT)]
    if len(inputs) == 1 and set(vectors) <= {FIRST, FIRST + OUT}:
        fitting = {inputs[0] + name.removeprefix(FIRST): value for name, value in vectors.items()}
    else:
        fitting = {encoder: vectors[key] for encoder, key in keys.items() if key in vectors}
    if len(fitting) != len(vectors):
        has = ", ".join(name.replace(FIRST, "one text encoder") for name in sorted(vectors))
        behind = any(name.endswith(OUT) for name in vectors)
        wanted_keys = [key for key in keys.values() if behind or not key.endswith(OUT)]
        raise WordFileError(f"the word has vectors for {has}; this model's text encoders are {', '.join(wanted_keys)}")
    wide = {name: value.shape[1] for name, value in fitting.items()}
    if widths is not None and wide != (wanted := {name: widths.get(name, wide[name]) for name in wide}):
        raise WordFileError(f"the word has vectors as wide as {_widths(wide)}, but the model's are {_widths(wanted)}")
    return fitting


def is_negative(data: bytes) -> bool:
    """Whether the file says that its word is one for the negative prompt."""
    return metadata_of(data).get(NEGATIVE, "").strip().lower() == "true"


def stated_model(data: bytes) -> str:
    """A clause for a word that does not suit the model: which one its file says it is for; "" where it does not say."""
    stated = metadata_of(data).get(ARCHITECTURE, "").removesuffix("/textual-inversion").strip()[:60]
    return f"; its metadata says that it is for {repr(stated)[1:-1]}" if stated else ""


def _widths(encoders: Mapping[str, int]) -> str:
    return " and ".join(str(encoders[name]) for name in sorted(encoders))


def _read_safetensors(data: bytes) -> tuple[str, dict[str, Any]]:
    try:
        tensors = _tensors_of(data)
    except WordFileError:
        raise
    except Exception as error:  # a broken file can raise anything
        kind, advice = kind_of(data)
        if kind:
            raise WordFileError(f"it is {kind}, not a word file{': ' if advice else ''}{advice}") from error
        raise WordFileError(f"neither a safetensors file nor one of torch: {_first_line(error)}") from error
    metadata = metadata_of(data)
    return _sort_out(tensors, metadata.get(NAME) or trigger_of(metadata))


def _tensors_of(data: bytes) -> dict[str, Any]:
    """Raises whatever safetensors raises, but not for metadata that it does not like: a word needs none."""
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    if (count := header.count(b'"data_offsets"')) > MOST_TENSORS:
        raise WordFileError(f"it holds {count:,} tensors: a model, not a word")
    if len(header) > MOST_HEADER and header.startswith(b"{"):
        raise WordFileError(f"its header has {len(header):,} bytes; at most {MOST_HEADER:,} are read")
    try:
        return load(data)
    except SafetensorError:
        if (plain := without_metadata(data)) is None:
            raise
        return load(plain)


def _read_torch(data: bytes) -> tuple[str, dict[str, Any]]:
    try:
        file = TorchFile(data)
        name, content = _unpacked(file.content)
        tensors = {
            key: file.tensor(value) if isinstance(value, StoredTensor) else value for key, value in content.items()
        }
    except TorchFileError as error:
        raise WordFileError(str(error)) from error
    return _sort_out(tensors, name)


def _unpacked(content: Any) -> tuple[str, dict[str, Any]]:
    """The word's name, "" where there is none, and what is stored of its tensors."""
    name: object = ""
    if isinstance(content, dict) and "string_to_param" in content:
        name, content = content.get("name"), content["string_to_param"]
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        raise WordFileError(MODEL)
    if isinstance(content, StoredTensor):
        content = {A1111: content}
    if not isinstance(content, dict):
        raise WordFileError(f"expected a word's tensors by name, found a {type(content).__name__}")
    return name if isinstance(name, str) else "", {str(key): value for key, value in content.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _sort_out(tensors: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    if not tensors:
        raise WordFileError("it holds no tensor")
    for marks, kind in FOREIGN:
        if any(mark in key for key in tensors for mark in marks):
            raise WordFileError(kind)
    spelled = {_spelled(key): value for key, value in tensors.items()}
    if {key.removesuffix(OUT) for key in spelled} <= set(KEYS):
        return name, _without_zeros(spelled)
    if {key.removesuffix(OUT) for key in tensors} <= set(NAMELESS):
        first = {FIRST + (OUT if key.endswith(OUT) else ""): value for key, value in tensors.items()}
        return name, _without_zeros(first)
    if len(tensors) > MOST_WORDS:
        raise WordFileError(f"it holds {len(tensors):,} tensors, such as {_listed(tensors)}: a model, not a word")
    if len(tensors) != 1:
        raise WordFileError(f"expected one word in the file, found {len(tensors)}: {_listed(tensors)}")
    ((key, value),) = tensors.items()
    return key, {FIRST: value}


def _without_zeros(tensors: dict[str, Any]) -> dict[str, Any]:
    """Without what the text encoder reads where the word stands behind it."""
    return {
        key: value for key, value in tensors.items() if not (key + OUT in tensors and not _matrix(key, value).any())
    }


def _spelled(key: str) -> str:
    own = key.removesuffix(OUT)
    return SPELLINGS.get(own, own) + key[len(own) :]


def _listed(names: Iterable[str]) -> str:
    """The first of them, unprintable characters escaped."""
    return ", ".join(repr(name[:60])[1:-1] for name in sorted(names)[:5])


def _matrix(name: str, value: object) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise WordFileError(f"the word's {name} has shape {type(value).__name__}, not (vectors, width)")
    if (
        value.is_nested  # first: such a tensor has no shape to be asked for
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or not value.is_floating_point()
    ):
        raise WordFileError(f"the word's {name} is not a plain tensor of floating-point numbers")
    if value.ndim not in (1, 2) or not value.numel():
        raise WordFileError(f"the word's {name} has shape {tuple(value.shape)}, not (vectors, width)")
    count, width = value.numel() // value.shape[-1], value.shape[-1]
    if count > MOST_VECTORS or width > MOST_WIDE:
        raise WordFileError(
            f"the word's {name} has {count:,} vectors of {width:,} numbers; taken are at most {MOST_VECTORS:,} of {MOST_WIDE:,}"
        )
    if any(side > 1 and step == 0 for side, step in zip(value.shape, value.stride(), strict=True)):
        raise WordFileError(f"the word's {name} has a stride of 0: the file holds some of its numbers once for many")
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise WordFileError(f"the word's {name} claims {value.numel():,} numbers, and the file holds fewer")
    try:
        matrix = value.detach().resolve_neg().float().reshape(-1, width).numpy()
    except RuntimeError as error:  # numbers of four bits, and whatever else torch can store and not convert
        raise WordFileError(
            f"the word's {name} cannot be read as floating-point numbers: {_first_line(error)}"
        ) from error
    if not np.isfinite(matrix).all():
        raise WordFileError(f"the word's {name} is not finite")
    return matrix
