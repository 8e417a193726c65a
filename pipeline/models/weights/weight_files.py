"""Which files of a folder of weights are loaded: those under the libraries' own names, or those of its only variant."""

import json
import re
from pathlib import Path

# NAME.safetensors, NAME-00001-of-00002.safetensors, and with a variant NAME.fp16.safetensors, NAME.fp16-00001-of-00002.safetensors.
NAMED = re.compile(r"(diffusion_pytorch_model|model)(?:\.(\w+))?(-\d+-of-\d+)?(?:\.(\w+))?\.safetensors")
# Patterns of paths in a repository: weights, and those with a variant in their name.
WEIGHTS, VARIANTS = "*.safetensors", "*.*.safetensors"
# The list of shards, NAME.safetensors.index.json; with a variant NAME.safetensors.index.fp16.json, or older .fp16.index.json.
INDEX = re.compile(r".*\.safetensors(?:\.(\w+))?\.index(?:\.(\w+))?\.json")


def weight_files(folder: Path) -> tuple[str | None, list[Path]]:
    """The variant to ask the library for, None where there are plain weights, and the files that are then read.

    Raises ValueError for a folder with several variants and no plain weights.
    """
    by_variant: dict[str | None, list[Path]] = {}
    shards = set()
    for path in sorted(folder.glob(WEIGHTS)):
        if (named := NAMED.fullmatch(path.name)) and named[1] in _stems(folder):
            by_variant.setdefault(named[2] or named[4], []).append(path)
            shards |= {path} if named[3] else set()
    if not by_variant:
        return None, []
    if None not in by_variant and len(by_variant) > 1:
        raise ValueError(
            f"{folder} has the variants {', '.join(map(str, sorted(map(str, by_variant))))} alone: keep one of them"
        )
    variant = None if None in by_variant else next(iter(by_variant))
    whole, parts = ([path for path in by_variant[variant] if (path in shards) == sharded] for sharded in (False, True))
    if whole and parts:  # of both, diffusers reads what an index names, and transformers the whole file
        indexed = any(path.name.startswith("diffusion_") and INDEX.fullmatch(path.name) for path in folder.iterdir())
        return variant, parts if indexed else whole
    return variant, whole or parts


def _stems(folder: Path) -> tuple[str, ...]:
    """The names that weights of this folder have: diffusers and transformers each know one, and configurations tell them apart."""
    try:
        configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "diffusion_pytorch_model", "model"
    return ("diffusion_pytorch_model",) if "_class_name" in configuration else ("model",)
