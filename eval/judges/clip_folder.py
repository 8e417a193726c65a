"""Checks a folder with a CLIP in open_clip's layout before open_clip reads it.

open_clip passes entries of open_clip_config.json on to transformers and timm unchecked, where they can run code from the folder or
load files from elsewhere. Only the entries that published CLIPs need are accepted.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm

from eval.judges.picture_sizes import refuse_numbers
from pipeline.models.configuration import ConfigurationError, read_configuration, refuse_code
from pipeline.models.weights.stated_size import refuse_outsized_build

CONFIGURATION, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# The files that tokenisation depends on.
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
# The tokenizer keywords and text towers in open_clip's own configurations.
TOKENIZER_KEYWORDS: dict[str, tuple[Any, ...]] = {
    "clean": ("canonicalize", "lower", "whitespace"), "strip_sep_token": (True, False),
}  # fmt: skip
MOST_TOKENS = 4_096
TEXT_TOWERS = (
    "roberta-base", "xlm-roberta-base", "xlm-roberta-large", "google/mt5-base", "google/mt5-xl",
    "facebook/nllb-200-distilled-600M", "facebook/nllb-200-distilled-1.3B",
)  # fmt: skip


def check_clip_folder(name: str, folder: Path) -> dict[str, Any]:
    """Checks the folder and returns the text part of its configuration (`text_cfg`).

    name: the CLIP's name as given. Raises FileNotFoundError for an incomplete folder, and ConfigurationError for a configuration
    that would run code or load files from elsewhere.
    """
    for wanted in (CONFIGURATION, WEIGHTS):
        if not (folder / wanted).is_file():
            raise FileNotFoundError(f"CLIP {name!r}: {folder / wanted} does not exist")
    path = folder / CONFIGURATION
    refuse_code(folder)
    model = _object(path, read_configuration(path), "model_cfg")
    text, vision = _object(path, model, "text_cfg"), _object(path, model, "vision_cfg")
    keywords = text.get("tokenizer_kwargs") or {}
    if not isinstance(keywords, dict):
        raise _not_listed(path, "tokenizer_kwargs", keywords, TOKENIZER_KEYWORDS)
    for keyword, value in keywords.items():
        if value not in TOKENIZER_KEYWORDS.get(keyword, ()):
            raise _not_listed(path, f"tokenizer_kwargs.{keyword}", value, TOKENIZER_KEYWORDS)
    tower, trunk = text.get("hf_model_name"), vision.get("timm_model_name")
    if tower is not None and (tower not in TEXT_TOWERS or Path(tower).exists()):
        raise _not_listed(path, "hf_model_name", tower, TEXT_TOWERS)
    if trunk is not None and not (isinstance(trunk, str) and ":" not in trunk and timm.is_model(trunk)):
        raise _not_listed(path, "timm_model_name", trunk, ("names of models that timm has built in",))
    return text


def refuse_outsized_clip(folder: Path, build: Callable[[], object]) -> None:
    """build: makes the CLIP of this checked folder without its weights. Raises ConfigurationError for one that is larger than its
    weights, or reads larger pictures or longer texts than any CLIP, and what `build` raises.
    """
    path = folder / CONFIGURATION
    stated = read_configuration(path)
    model = stated["model_cfg"]
    sides = {name: value for name, value in model["vision_cfg"].items() if name.endswith("_size")}
    refuse_numbers(path, [sides, stated.get("preprocess_cfg")])
    for part in (model["text_cfg"], model.get("multimodal_cfg") or {}):
        refuse_numbers(path, {"context_length": part.get("context_length", 0)}, MOST_TOKENS)
    refuse_outsized_build(build, path, [folder / WEIGHTS])


def tokenizer_digest(folder: Path, text: Mapping[str, Any]) -> str:
    """Hex sha256 of everything that tokenisation depends on: the folder's tokenizer files, and `text_cfg`."""
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode())
    for path in sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)}):
        if path.name != CONFIGURATION:
            digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _object(path: Path, inside: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = inside.get(name)
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} has no object {name!r}, as open_clip's configurations have")
    return value


def _not_listed(path: Path, name: str, value: object, listed: Any) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {name} is {str(value)[:200]!r}, which open_clip would hand on as it stands; taken are "
        f"{', '.join(map(str, listed))}. Remove the entry, or take another CLIP"
    )
