"""Which files of a folder of weights are loaded: those under the libraries' own names, or those of its only variant."""

import re
from pathlib import Path

# NAME.safetensors, NAME-00001-of-00002.safetensors, and with a variant NAME.fp16.safetensors, NAME.fp16-00001-of-00002.safetensors.
NAMED = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors")


def weight_files(folder: Path) -> tuple[str | None, list[Path]]:
    """The variant to ask the library for, None where there are plain weights, and the files that are then read.

    Raises ValueError for a folder with several variants and no plain weights.
    """
    found: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if named := NAMED.fullmatch(path.name):
            found.setdefault(named[1] or named[2], []).append(path)
    if None in found or not found:
        return None, found.get(None, [])
    if len(found) > 1:
        raise ValueError(
            f"{folder} has the variants {', '.join(map(str, sorted(map(str, found))))} alone: keep one of them"
        )
    return next(iter(found.items()))
