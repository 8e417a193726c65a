"""Start files: linear maps from the CLIP features of a concept's pictures to the first vectors of its word (--start FILE).

jobs/fit_starts.py makes one, from words that were learned before or from the vocabulary. It belongs to one model and one CLIP,
whose digests it holds, and has a map for each kind of concept and number of vectors that it was fitted to.

Safetensors: `mean` (F,), and for each map `KIND.V.ENCODER.weight` (V, D, F) and `KIND.V.ENCODER.bias` (V, D), all float32.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.records import OUT, Concept
from pipeline.store.model_spec import metadata_of, with_metadata

MAX_BYTES = 2_000_000_000
TENSOR = re.compile(r"(object|style)\.([1-9][0-9]{0,3})\.([a-z0-9_]+)\.(weight|bias)")
STATED = ("model", "model_digest", "clip", "clip_digest", "fitted_to")


class StartFileError(ValueError):
    """A start file cannot be used. The message says what was found and what would do."""


@dataclass(frozen=True, slots=True)
class StartMap:
    """Features (F,), less their mean, to the vectors of one text encoder. weight: float32 (V, D, F). bias: float32 (V, D)."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, slots=True)
class StartFile:
    """digest: sha256 of the file. model, clip: names; the digests identify them. fitted_to: what it was fitted to, in words.

    mean: float32 (F,), of the features. maps: (kind of concept, vectors of the word) -> text encoder -> map.
    """

    digest: str
    model: str
    model_digest: str
    clip: str
    clip_digest: str
    fitted_to: str
    mean: np.ndarray
    maps: Mapping[tuple[str, int], Mapping[str, StartMap]]

    def vectors(self, features: np.ndarray, kind: str, count: int) -> dict[str, np.ndarray] | None:
        """Features of a concept's pictures (N, F) -> text encoder -> float32 (V, D); None for a kind that it has no map of.

        Raises StartFileError for features of another length.
        """
        maps = self.maps.get((kind, count))
        if maps is None:
            return None
        if features.shape[1] != len(self.mean):
            raise StartFileError(
                f"it reads {len(self.mean):,} features of a picture, and {self.clip!r} gives {features.shape[1]:,}; {ANEW}"
            )
        seen = features.mean(0) - self.mean
        return {name: (each.bias + each.weight @ seen).astype(np.float32) for name, each in maps.items()}

    @property
    def encoders(self) -> tuple[str, ...]:
        return tuple(sorted(next(iter(self.maps.values()))))

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(kind for kind, _ in self.maps)

    def refuse_model(self, name: str, digest: str, encoders: Collection[str]) -> None:
        """encoders: in which the word is learned. Raises StartFileError."""
        if digest != self.model_digest:
            raise StartFileError(
                f"it was fitted to words of {self.model!r} with weights {self.model_digest[:12]}, and {name!r} has weights "
                f"{digest[:12]}; {ANEW}"
            )
        if missing := sorted(set(encoders) - set(self.encoders)):
            place = "words behind the text encoder" if missing[0].endswith(OUT) else "the text encoder"
            has = ", ".join(map(_told, self.encoders))
            raise StartFileError(
                f"it has no map for {place} {missing[0].removesuffix(OUT)}, only for {has}; choose others with --encoders or "
                f"--word-place, or {ANEW}"
            )

    def refuse_clip(self, name: str, digest: str) -> None:
        """Raises StartFileError for another CLIP than the one whose features it reads."""
        if digest != self.clip_digest:
            raise StartFileError(
                f"it reads features of the CLIP {self.clip!r} with weights {self.clip_digest[:12]}, and --clip {name} has "
                f"{digest[:12]}; give that CLIP, or {ANEW}"
            )

    def refuse_concepts(self, concepts: Iterable[Concept]) -> None:
        """Raises StartFileError for a word of as many vectors as no word had that it was fitted to.

        A kind without any map is no fault: its words start from their initializer.
        """
        for concept in concepts:
            if concept.kind in self.kinds and (concept.kind, concept.vectors) not in self.maps:
                known = sorted(count for kind, count in self.maps if kind == concept.kind)
                raise StartFileError(
                    f"{concept.name} is a word of {concept.vectors} vectors, and it has maps for {concept.kind}s of "
                    f"{', '.join(map(str, known))}; change --vectors, or {ANEW}"
                )


def _told(name: str) -> str:
    return f"words behind {name.removesuffix(OUT)}" if name.endswith(OUT) else name


ANEW = "make another with jobs/fit_starts.py"


def encode_start_file(start: StartFile) -> bytes:
    """The same maps always give the same bytes. The digest is left out: it is of these bytes."""
    tensors = {"mean": start.mean}
    for (kind, count), maps in sorted(start.maps.items()):
        for name, each in sorted(maps.items()):
            tensors[f"{kind}.{count}.{name}.weight"], tensors[f"{kind}.{count}.{name}.bias"] = each.weight, each.bias
    contiguous = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    stated = {name: str(getattr(start, name)) for name in STATED}
    return with_metadata(save(contiguous), {**stated, "text_encoders": ",".join(start.encoders)})


def decode_start_file(data: bytes) -> StartFile:
    """Raises StartFileError for a file that is none, and one whose maps do not fit together."""
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise StartFileError(f"it is no safetensors file: {error}; {ANEW}") from error
    stated = metadata_of(data)
    if lacking := [name for name in STATED if not stated.get(name)]:
        raise StartFileError(f"it does not state its {lacking[0].replace('_', ' ')}, so it is no start file; {ANEW}")
    mean = tensors.pop("mean", np.empty(0))
    by_kind: dict[tuple[str, int], dict[str, dict[str, np.ndarray]]] = {}
    for name, value in tensors.items():
        if not (match := TENSOR.fullmatch(name)) or value.dtype != np.float32 or not np.isfinite(value).all():
            raise StartFileError(f"its tensor {name[:100]!r} is not one of a start file, or not finite; {ANEW}")
        kind, count, encoder, part = match.groups()
        by_kind.setdefault((kind, int(count)), {}).setdefault(encoder, {})[part] = value
    maps = {
        key: {name: _map(name, parts, key[1], mean) for name, parts in some.items()} for key, some in by_kind.items()
    }
    if len({frozenset(some) for some in maps.values()}) != 1:
        raise StartFileError(f"its maps are not all of the same text encoders; {ANEW}")
    model, model_digest, clip, clip_digest, fitted_to = (stated[name] for name in STATED)
    return StartFile(hashlib.sha256(data).hexdigest(), model, model_digest, clip, clip_digest, fitted_to, mean, maps)


def _map(encoder: str, parts: Mapping[str, np.ndarray], count: int, mean: np.ndarray) -> StartMap:
    if set(parts) == {"weight", "bias"} and parts["bias"].ndim == 2:
        weight, bias = parts["weight"], parts["bias"]
        if len(bias) == count and mean.ndim == 1 and weight.shape == (*bias.shape, len(mean)):
            return StartMap(weight, bias)
    raise StartFileError(f"the shapes of its map for {encoder} do not fit together; {ANEW}")
