"""A concept's fingerprint: a digest of its images' bytes, the model's weights and every setting that changes the word."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.records import Concept, Source
from pipeline.settings import InversionSettings

# Increased whenever the same inputs would give another word; markers of older versions then no longer count.
ALGORITHM = 2


def fingerprint(
    concept: Concept, image_digests: Sequence[str], model_digest: str, dtype: str, settings: InversionSettings
) -> str:
    """Hex sha256. Carried columns, the class and URLs are not part of it, because they do not change the word."""
    content = {
        "algorithm": ALGORITHM, "concept": concept.name, "placeholder": concept.placeholder, "vectors": concept.vectors,
        "initializer": concept.initializer, "kind": concept.kind, "images": list(image_digests), "model": model_digest,
        "dtype": dtype, "settings": _fingerprinted(settings),
    }  # fmt: skip
    if concept.captions:
        content["captions"] = dict(concept.captions)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.cache
def _fingerprinted(settings: InversionSettings) -> dict[str, Any]:
    """The part that is the same for all concepts of a run, computed once."""
    return settings.fingerprinted()


def content_of(source: Source) -> str:
    """A file's part of a fingerprint: of a picture its digest, of any other file its suffix and digest."""
    return f"{PurePosixPath(source.url).suffix} {source.digest}" if source.role != "picture" else source.digest
