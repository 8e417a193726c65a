"""A CLIP in a folder, as open_clip has it: read and checked before open_clip reads it.

open_clip hands entries of open_clip_config.json on to transformers and timm as they stand, and there they can run code of
the folder or load something from elsewhere. Only what published CLIPs need is let through.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

from pipeline.models.configuration import ConfigurationError, read_configuration, refuse_code

CONFIGURATION, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# What decides how a text becomes tokens.
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
# The tokenizer's keywords and the text towers that open_clip's own configurations have.
TOKENIZER_KEYWORDS: dict[str, tuple[Any, ...]] = {
    "clean": ("canonicalize", "lower", "whitespace"), "strip_sep_token": (True, False),
}  # fmt: skip
TEXT_TOWERS = (
    "roberta-base", "xlm-roberta-base", "xlm-roberta-large", "google/mt5-base", "google/mt5-xl",
    "facebook/nllb-200-distilled-600M", "facebook/nllb-200-distilled-1.3B",
)  # fmt: skip


def check_clip_folder(name: str, folder: Path) -> dict[str, Any]:
    """What its configuration says of texts (`text_cfg`).

    name: of the CLIP, as it was asked for. Raises FileNotFoundError for a folder that is not complete, and
    ConfigurationError for one whose configuration would have anything run or loaded from elsewhere.
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


def tokenizer_digest(folder: Path, text: Mapping[str, Any]) -> str:
    """Hex sha256 of what decides how a text becomes tokens: the folder's files of a tokenizer, and `text_cfg`."""
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode())
    for path in sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)}):
        if path.name != CONFIGURATION:
            digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _object(path: Path, inside: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = inside.get(name)
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} has no object {name!r}, as open_clip's configurations have")
    return found


def _not_listed(path: Path, name: str, value: object, listed: Any) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {name} is {str(value)[:200]!r}, which open_clip would hand on as it stands; taken are "
        f"{', '.join(map(str, listed))}. Remove the entry, or take another CLIP"
    )
