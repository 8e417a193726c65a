"""Finds the word file of each concept, for runs that import words instead of learning them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pipeline.inputs.manifest import Manifest
from pipeline.store.storage import Storage, without_credentials

ENDINGS = (".safetensors", ".pt", ".bin")


def with_words(manifest: Manifest, folder: str | None, options: Mapping[str, Any]) -> Manifest:
    """Every concept with its word's file. Raises ValueError that names those without one, and StorageError."""
    files: dict[str, str] = {}
    if folder is not None:
        place = Storage(folder, options)
        for name in place.identities():
            path = PurePosixPath(name)
            if path.suffix.lower() in ENDINGS:
                if path.stem in files:
                    raise ValueError(
                        f"{without_credentials(folder)} has two words for {path.stem}: {name} is one of them"
                    )
                files[path.stem] = place.join(name)
    concepts = [replace(each, word_file=each.word_file or files.get(each.name)) for each in manifest.concepts]
    if wordless := [each.name for each in concepts if not each.word_file]:
        where = (
            f"there is no {wordless[0]}.safetensors, .pt or .bin in {without_credentials(folder)}"
            if folder
            else "give --words"
        )
        raise ValueError(
            f"{len(wordless)} of {len(concepts)} concepts have no word to import, such as {', '.join(wordless[:5])}: name its "
            f"file in the column word_file, or {where}"
        )
    return replace(manifest, concepts=tuple(concepts))
