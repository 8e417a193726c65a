"""What makes two runs of a concept the same run: the bytes of its images, the model's weights and every setting of the result."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.records import Concept, Source
from pipeline.settings import InversionSettings

# Raised whenever the same inputs would give another word: markers of older versions then no longer count.
ALGORITHM = 2


def fingerprint(
    concept: Concept, image_digests: Sequence[str], model_digest: str, dtype: str, settings: InversionSettings
) -> str:
    """Hex sha256. Carried columns, the class and URLs do not enter: they are written beside a word but do not change it."""
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
    """The same for every concept of a run, of which there may be 100,000."""
    return settings.fingerprinted()


def content_of(source: Source) -> str:
    """What a file brings into a fingerprint: a picture its digest, every other file also its ending."""
    return f"{PurePosixPath(source.url).suffix} {source.digest}" if source.role != "picture" else source.digest
