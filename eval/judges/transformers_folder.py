"""Judges loaded by transformers from a folder in the hub's layout: SigLIP, SigLIP 2, CLIP, DINOv2 and DINOv3.

    transformers:FOLDER     config.json, model.safetensors, preprocessor_config.json and, for models that read texts, the tokenizer

config.json's `model_type` chooses a class from the list below. No code of a folder is run, weights are read from safetensors only,
and nothing is downloaded.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors import SafetensorError

from eval.judges.clip import BATCH
from eval.judges.judge import TRANSFORMERS, Features, Picture
from eval.judges.picture_sizes import refuse_large_pictures
from pipeline.models.configuration import ConfigurationError, read_configuration, refuse_code
from pipeline.models.weights.load_weights import load_whole

CONFIGURATION, PREPROCESSING, WEIGHTS = "config.json", "preprocessor_config.json", "*.safetensors"
# model_type -> name of transformers' class, imported when it is used.
OF_PICTURES = {
    "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel", "dinov3_vit": "DINOv3ViTModel",
}  # fmt: skip
OF_TEXTS_TOO = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
# Both SigLIPs were trained on texts padded to their full length.
PADDED = ("siglip", "siglip2")


class TransformersPictures:
    """A model that returns pooled features of pictures, in fp32 and eval mode, with the preprocessing its folder states."""

    def __init__(self, name: str, folder: Path, model_class: Any, device: str) -> None:
        self.name = name
        self._prepare: Any = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._model: Any = load_whole(model_class, folder, dtype=torch.float32)
        self._model.eval().requires_grad_(False).to(device)
        self._device = device
        self.fingerprint = digest_of(folder)

    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        """Pictures, PIL or uint8 (H, W, 3), of any sizes -> float32 (N, D), rows of length one."""
        features = [self._encode(pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)]
        return np.concatenate(features) if features else np.empty((0, self._width), np.float32)

    def _encode(self, pictures: Sequence[Picture]) -> Features:
        return self._read(pictures, self._pooled)

    @torch.no_grad()
    def _read(self, pictures: Sequence[Picture], states: Callable[[Any], Any]) -> Features:
        opened = [each if isinstance(each, Image.Image) else Image.fromarray(each) for each in pictures]
        prepared = self._prepare(images=[each.convert("RGB") for each in opened], return_tensors="pt").to(self._device)
        return _unit(states(prepared))

    def _pooled(self, prepared: Any) -> Any:
        return self._model(**prepared)

    @property
    def _width(self) -> int:
        return int(self._model.config.hidden_size)


class TransformersPatches(TransformersPictures):
    """A DINO, whose patches have features as well."""

    def encode_patches(self, pictures: Sequence[Picture]) -> Features:
        """-> float32 (N, G, G, D), the last layer's patches, vectors of length one."""
        starts = range(0, len(pictures), BATCH)
        features = [self._read(pictures[start : start + BATCH], self._patches) for start in starts]
        return np.concatenate(features) if features else np.empty((0, 1, 1, self._width), np.float32)

    def _patches(self, prepared: Any) -> Any:
        before = 1 + getattr(self._model.config, "num_register_tokens", 0)
        states = self._model(**prepared).last_hidden_state[:, before:]
        side = math.isqrt(states.shape[1])
        return states.reshape(len(states), side, side, -1)


class TransformersClip(TransformersPictures):
    """A model that also reads texts."""

    def __init__(self, name: str, folder: Path, model_class: Any, device: str) -> None:
        super().__init__(name, folder, model_class, device)
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._room = int(self._model.config.text_config.max_position_embeddings)
        self._padding = "max_length" if self._model.config.model_type in PADDED else "longest"

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Features:
        """-> float32 (N, D), rows of length one. Raises ValueError for a text longer than the model can read."""
        features = [np.empty((0, self._width), np.float32)]
        self.refuse_long(texts)
        for start in range(0, len(texts), BATCH):
            some = list(texts[start : start + BATCH])
            tokens = self._tokenizer(some, padding=self._padding, max_length=self._room, return_tensors="pt")
            taken = {name: each.to(self._device) for name, each in tokens.items() if name != "token_type_ids"}
            features.append(_unit(self._model.get_text_features(**taken)))
        return np.concatenate(features)

    def refuse_long(self, texts: Sequence[str]) -> None:
        """Raises ValueError for a text longer than the model can read."""
        for text in texts:
            if len(self._tokenizer(text, verbose=False)["input_ids"]) > self._room:
                raise ValueError(
                    f"the prompt {text[:200]!r} is too long for {self.name}, which reads {self._room} tokens: shorten it"
                )

    def _pooled(self, prepared: Any) -> Any:
        return self._model.get_image_features(**prepared)

    @property
    def _width(self) -> int:
        config = self._model.config
        return int(getattr(config, "projection_dim", None) or config.text_config.hidden_size)


def load_transformers(name: str, device: str = "cpu") -> TransformersPictures:
    """name: "transformers:FOLDER". Raises FileNotFoundError for an incomplete folder, and ConfigurationError or ValueError for a
    model that is not in the list above, weights that do not fit it, or a configuration that would run code.
    """
    folder, kind = _checked(name)
    made = TransformersClip if kind in OF_TEXTS_TOO else TransformersPatches
    try:
        return made(name, folder, getattr(transformers, {**OF_PICTURES, **OF_TEXTS_TOO}[kind]), device)
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError, ValueError, ImportError) as error:
        raise ValueError(f"judge {name!r} does not load: {error}") from error


def reads_texts(name: str) -> bool:
    """The folder in a judge's name. Raises what load_transformers raises."""
    return _checked(name)[1] in OF_TEXTS_TOO


def _checked(name: str) -> tuple[Path, str]:
    """Its folder and its kind."""
    folder = Path(name.removeprefix(TRANSFORMERS))
    for wanted in (CONFIGURATION, PREPROCESSING, WEIGHTS):
        if not any(folder.glob(wanted)):
            raise FileNotFoundError(f"judge {name!r}: {folder / wanted} does not exist")
    refuse_code(folder)
    refuse_large_pictures(folder)
    kind = read_configuration(folder / CONFIGURATION).get("model_type")
    if kind not in OF_PICTURES and kind not in OF_TEXTS_TOO:
        known = ", ".join([*OF_TEXTS_TOO, *OF_PICTURES])
        raise ConfigurationError(f"{folder / CONFIGURATION}: model_type is {str(kind)[:100]!r}; supported are {known}")
    return folder, str(kind)


def _unit(output: Any) -> Features:
    """The features in a module's output: the output itself, or its pooled state."""
    pooled = getattr(output, "pooler_output", output)
    features: Features = F.normalize(pooled.float(), dim=-1).cpu().numpy()
    return features


def digest_of(folder: Path) -> str:
    """Hex sha256 of the files that features depend on, by file name."""
    digest = hashlib.sha256()
    patterns = ("*.json", "*.txt", "*.model", WEIGHTS)
    for path in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        with path.open("rb") as opened:
            digest.update(f"{path.name}\0".encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
