"""What a word file says of itself: the metadata of ModelSpec 1.0.1 (github.com/Stability-AI/ModelSpec) in its safetensors header.

The date is the day on which the word was learned, so that the same word gives the same bytes at any time and on any machine. The
keys are sorted: safetensors' own writer puts them in another order every time.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.store.locations import without_credentials

PREFIX = "modelspec."
TRIGGER, ARCHITECTURE = f"{PREFIX}trigger_phrase", f"{PREFIX}architecture"
NEGATIVE = f"{PREFIX}is_negative_embedding"
# What another trainer's word says of these stays with it. The rest is ours, of the word as it is here.
THEIRS = ("title", "author", "description", "date", "tags", "resolution", "license", "usage_hint", "merged_from")
MOST_STATED = 60  # entries; the specification has half as many
LONGEST_VALUE = 2_000  # characters; a thumbnail is longer, and is not kept
LONGEST_NAME = 140  # of a word, in characters; the specification has no limit
MOST_HEADER = 2_000_000  # bytes; as Python's objects they can take forty times as much
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class WordSpec:
    """title: the concept's name. architecture: of the model, by its name in the specification where it has one.

    kind: "object", "style" or "negative". resolution: side of the training pictures in pixels; learned: the day, ISO 8601; None
    where a run's tables do not have them. stated: of an imported word, what its file said of it; see `stated_in`.
    """

    title: str
    architecture: str
    kind: str
    resolution: int | None = None
    learned: str | None = None
    stated: Mapping[str, str] = field(default_factory=dict)

    def metadata(self, placeholder: str) -> dict[str, str]:
        said = {
            "sai_model_spec": "1.0.1", "architecture": f"{self.architecture}/textual-inversion", "implementation": "diffusers",
            "title": self.title, "trigger_phrase": placeholder, "tags": f"textual inversion, {self.kind}",
            "is_negative_embedding": "true" if self.kind == "negative" else "false",
        }  # fmt: skip
        if self.learned is not None:
            said["date"] = self.learned
        if self.resolution is not None:
            said["resolution"] = f"{self.resolution}x{self.resolution}"
        said |= {key: value for key, value in self.stated.items() if key in THEIRS}
        return {PREFIX + key: value for key, value in said.items()}


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """data: a safetensors file. The same tensors with this metadata in place of its own, and their hash."""
    header, tensors = _parts(data)
    header.pop(METADATA, None)
    hashed = {f"{PREFIX}hash_sha256": f"0x{hashlib.sha256(tensors).hexdigest()}"}
    said = dict(sorted({**metadata, **hashed}.items()))
    return _joined({METADATA: said, **header}, tensors)


def without_metadata(data: bytes) -> bytes | None:
    """The same tensors; None for bytes without metadata, or without a header that can be read."""
    try:
        header, tensors = _parts(data)
    except (ValueError, RecursionError):
        return None
    return None if header.pop(METADATA, None) is None else _joined(header, tensors)


def metadata_of(data: bytes) -> dict[str, str]:
    """What is text in a safetensors file's metadata; {} for bytes that have none."""
    try:
        metadata = _parts(data)[0].get(METADATA)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def stated_in(data: bytes) -> dict[str, str]:
    """What a word file says of itself, by the specification's keys without their prefix: printable text, without credentials."""
    stated = {
        key.removeprefix(PREFIX): "".join(sign if sign.isprintable() else " " for sign in value).strip()
        for key, value in sorted(metadata_of(data).items())
        if key.startswith(PREFIX) and len(key) <= LONGEST_NAME and len(value) <= LONGEST_VALUE
    }
    said = [(key, without_credentials(value)) for key, value in stated.items() if key.isprintable() and value]
    return dict(said[:MOST_STATED])


def trigger_of(metadata: Mapping[str, str]) -> str:
    """The word's name as its trigger phrase has it; "" where there is none, or a phrase of several words."""
    phrase = metadata.get(TRIGGER, "").strip()
    fits = len(phrase) <= LONGEST_NAME and phrase.isprintable() and not any(map(str.isspace, phrase))
    return phrase if fits else ""


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors' bytes. Raises ValueError and RecursionError."""
    end = 8 + int.from_bytes(data[:8], "little")
    if end > MOST_HEADER:
        raise ValueError(f"the header has more than {MOST_HEADER:,} bytes")
    header = json.loads(data[8:end])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")  # noqa: TRY004 - as json's own errors
    return header, data[end:]


def _joined(header: Mapping[str, Any], tensors: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + tensors
