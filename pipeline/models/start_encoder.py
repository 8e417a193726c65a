"""The start encoder: a linear map from a concept's pictures to the first vectors of its word.

It lies in a model's folder as start_encoder/model.safetensors and belongs to just these weights. For each text encoder of
the model the file holds `NAME.weight` (D, 768), `NAME.bias`, `NAME.mean` and `NAME.std` (D,): the pictures, averaged to
16 x 16 pixels in [-1, 1], are mapped, normalised over D, and given the vocabulary's mean and spread.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from pipeline.models.find import Model, ModelError

FILE = "start_encoder/model.safetensors"
SIDE = 16  # pixels
SHARES = ("weight", "bias", "mean", "std")


@dataclass(frozen=True, slots=True)
class StartEncoder:
    """digest: sha256 of its file. maps: text encoder -> weight, bias, mean and std, float32."""

    digest: str
    maps: Mapping[str, Mapping[str, np.ndarray]]

    def vectors(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures uint8 (N, R, R, 3) -> text encoder -> float32 (D,). R is at least 16."""
        seen = np.mean([_small(picture) for picture in pixels], axis=0)
        vectors = {}
        for name, kept in self.maps.items():
            mapped = kept["weight"] @ seen + kept["bias"]
            normal = (mapped - mapped.mean()) / np.sqrt(mapped.var() + 1e-5)
            vectors[name] = (kept["mean"] + kept["std"] * normal).astype(np.float32)
        return vectors


def load_start_encoder(model: Model) -> StartEncoder:
    """The model's own. Raises ModelError for a model without one, and for one that is broken or of other weights."""
    path = model.folder / FILE
    if not path.is_file():
        raise ModelError(f"--start pictures: model {model.name!r} has no start encoder, {path}; choose another start")
    try:
        with safe_open(path, "np") as opened:
            of = (opened.metadata() or {}).get("model_digest", "")
            tensors = {key: opened.get_tensor(key).astype(np.float32) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"the start encoder {path} cannot be read: {error}; --start words does without it") from error
    if of != model.digest:
        raise ModelError(
            f"the start encoder {path} was made for weights {of[:12] or 'unnamed'}, and this model's are {model.digest[:12]}; "
            "--start words does without it"
        )
    names = sorted({key.rpartition(".")[0] for key in tensors})
    if wrong := sorted({f"{name}.{share}" for name in names for share in SHARES} ^ tensors.keys()):
        raise ModelError(
            f"the start encoder {path} lacks or does not need {', '.join(wrong)}; --start words does without it"
        )
    maps = {name: {share: tensors[f"{name}.{share}"] for share in SHARES} for name in names}
    return StartEncoder(_digest_of(path), maps)


def _digest_of(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _small(picture: np.ndarray) -> np.ndarray:
    """float32 (768,) in [-1, 1]: means over the cells of a grid of 16 x 16."""
    edges = np.linspace(0, len(picture), SIDE + 1).round().astype(int)[:-1]
    sizes = np.diff(np.append(edges, len(picture)))
    sums = np.add.reduceat(np.add.reduceat(picture.astype(np.float32), edges, 0), edges, 1)
    means: np.ndarray = sums / (sizes[:, None, None] * sizes[None, :, None])
    return means.ravel() / 127.5 - 1
