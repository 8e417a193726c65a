"""What a single .safetensors file holds: which model it is, and the digest of what is loaded of it. Needs no torch."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

SAFE = ".safetensors"
GGUF = ".gguf"
ENDINGS = (SAFE, GGUF, ".ckpt", ".pt", ".pth", ".bin")  # of models in one file, in any format
UNET = "model.diffusion_model."
FIRST_INPUT = f"{UNET}input_blocks.0.0.weight"
VAE = "first_stage_model."
CLIP_L, OPEN_CLIP = "transformer.", "model."  # how transformers and OpenCLIP each begin a text encoder's names
# Parts of a text encoder that a diffusion model has no use for, and what only training needs. The last layer of 2.x is one:
# the states before it are the ones that its U-Net was trained on.
UNUSED = r"position_ids|logit_scale|attn_mask"
UNUSED_L = rf"{UNUSED}|text_projection\.weight"
# Names that only such files have -> what they are. The first that fits is told.
OTHERS: tuple[tuple[str, str], ...] = (
    (r"lora_|\.lora\.|hada_w|lokr_w|oft_blocks", "a LoRA"),
    (r"control_model\.|controlnet_|input_hint_block\.|zero_convs\.", "a ControlNet"),
    (r"(emb_params|emp_params|clip_[lg]|t5(xxl)?|string_to_param)(_out)?$", "a word (an embedding)"),
    (r".*distilled_guidance_layer\.", "a Chroma"),
    (r".*double_blocks\.", "a Flux"),
    (r".*joint_blocks\.", "a Stable Diffusion 3"),
    (r"down_blocks\.|up_blocks\.|text_model\.|transformer_blocks\.", "one part of a model in diffusers' layout; name its folder"),
    (r"cond_stage_model\.|conditioner\.", "a Stable Diffusion without its U-Net"),
    (r"(encoder|decoder|quant_conv|post_quant_conv|first_stage_model)\.", "an autoencoder (VAE) alone"),
)  # fmt: skip
CHANNELS = {
    5: "a model that draws by depth",
    7: "an upscaler",
    8: "a model that edits pictures",
    9: "an inpainting model",
}
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
WHERE = "give a folder in diffusers' layout for any other model"
# Of a Stable Diffusion 2 that predicts the velocity, the standard deviation of these biases is above the limit. It is the rule of
# ComfyUI's comfy/supported_models.py, SD20: nothing else in most of these files tells.
TELLING, LIMIT = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
EPSILON_STEP = 875_000  # the last training step of 2.x-base, by which diffusers tells it


class SingleFileError(ValueError):
    """A file that is not read. The message says what it is, and what would do."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in the file: its type by safetensors' name, shape, and place in bytes from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Part:
    """prefix: of its tensors' names in the file. unused: a pattern of the rest of a name that is not loaded."""

    prefix: str
    unused: str | None = None

    def loads(self, name: str) -> bool:
        rest = name.removeprefix(self.prefix)
        return rest != name and not (self.unused and re.search(rf"(^|\.)({self.unused})", rest))


@dataclass(frozen=True, slots=True)
class Kind:
    """title: its name for people. pipeline: diffusers' class. configs: its folder in configs/.

    parts: folder of a part -> where it is in the file.
    """

    title: str
    pipeline: str
    configs: str
    parts: Mapping[str, Part]


_SHARED = {"unet": Part(UNET), "vae": Part(VAE, "loss")}
_FIRST = Kind(
    "Stable Diffusion 1.x", "StableDiffusionPipeline", "sd-1",
    {**_SHARED, "text_encoder": Part(f"cond_stage_model.{CLIP_L}", UNUSED_L)},
)  # fmt: skip
_SECOND_TEXT = Part(f"cond_stage_model.{OPEN_CLIP}", rf"{UNUSED}|text_projection|resblocks\.23\.")
_SECOND, _SECOND_V = (
    Kind("Stable Diffusion 2.x", "StableDiffusionPipeline", configs, {**_SHARED, "text_encoder": _SECOND_TEXT})
    for configs in ("sd-2", "sd-2-v")
)
_XL = Kind(
    "Stable Diffusion XL", "StableDiffusionXLPipeline", "sd-xl",
    {
        **_SHARED, "text_encoder": Part(f"conditioner.embedders.0.{CLIP_L}", UNUSED_L),
        "text_encoder_2": Part(f"conditioner.embedders.1.{OPEN_CLIP}", UNUSED),
    },
)  # fmt: skip
KINDS = (_FIRST, _SECOND, _SECOND_V, _XL)


@dataclass(frozen=True, slots=True)
class Contents:
    """A file that can be loaded. tensors: those that are, by name."""

    path: Path
    kind: Kind
    tensors: Mapping[str, Stored]

    def digest(self) -> str:
        """Hex sha256 of the kind and of the loaded tensors' names, types, shapes and bytes."""
        hashed = hashlib.sha256(self.kind.configs.encode())
        with self.path.open("rb") as opened:
            for name, stored in sorted(self.tensors.items()):
                hashed.update(f"\0{name}\0{stored.dtype}\0{stored.shape}\0".encode())
                opened.seek(stored.begin)
                left = stored.end - stored.begin
                while left and (some := opened.read(min(left, 1 << 20))):
                    hashed.update(some)
                    left -= len(some)
        return hashed.hexdigest()


def read_contents(path: Path) -> Contents:
    """Raises SingleFileError for a file that is no Stable Diffusion 1.x, 2.x or XL in safetensors, and OSError."""
    refuse_pickle(str(path))
    every, metadata = _header(path)
    kind = _kind(path, every, metadata)
    tensors = {name: stored for name, stored in every.items() if any(part.loads(name) for part in kind.parts.values())}
    for part, where in kind.parts.items():
        if not any(map(where.loads, tensors)):
            raise SingleFileError(f"{path.name}, a {kind.title}, has no {part} (tensors named {where.prefix}...)")
    if strange := sorted({stored.dtype for stored in tensors.values()} - set(FLOATS)):
        raise SingleFileError(
            f"{path.name}, a {kind.title}, is quantised (tensors of {', '.join(strange)}); take it in float16 or bfloat16"
        )
    return Contents(path, kind, tensors)


def refuse_pickle(name: str) -> None:
    """Raises SingleFileError for a path or URL of another kind of file."""
    if name.endswith(GGUF):
        raise SingleFileError(
            f"{name.rpartition('/')[2]} is a GGUF file, whose weights are quantised and are not read; take the model in float16 or "
            f"bfloat16, as a {SAFE} file or in diffusers' layout"
        )
    if not name.endswith(SAFE):
        raise SingleFileError(
            f"{name.rpartition('/')[2]} is no {SAFE} file; pickled weights can run code and are not loaded. Convert it once: "
            f"StableDiffusionPipeline.from_single_file({name!r}).save_pretrained(FOLDER), or StableDiffusionXLPipeline, and "
            "give the FOLDER"
        )


def _header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """All tensors and the metadata. Raises SingleFileError."""
    try:
        with safe_open(path, "np") as opened:  # checks the header against the file
            metadata = opened.metadata() or {}
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise SingleFileError(f"{path.name} is no whole .safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return {
        name: Stored(each["dtype"], tuple(each["shape"]), *(8 + length + offset for offset in each["data_offsets"]))
        for name, each in header.items()
    }, metadata


def _kind(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> Kind:
    """Raises SingleFileError."""
    if FIRST_INPUT not in tensors or _has(tensors, "control_model."):
        what = next((told for mark, told in OTHERS if any(re.match(mark, name) for name in tensors)), None)
        raise SingleFileError(
            f"{path.name} is {what or 'of no model that is known'}; single files are read of Stable Diffusion 1.x, 2.x and XL, "
            f"{WHERE}"
        )
    channels = tensors[FIRST_INPUT].shape[1] if len(tensors[FIRST_INPUT].shape) == 4 else 0
    if channels != 4:
        what = CHANNELS.get(channels, "an unknown model")
        raise SingleFileError(f"{path.name} is {what}: its U-Net takes {channels} channels, not the 4 of a picture")
    is_second = _has(tensors, "cond_stage_model.model.")
    if _has(tensors, "conditioner.embedders.0.model."):
        raise SingleFileError(
            f"{path.name} is the refiner of Stable Diffusion XL, which draws over pictures; take the base model"
        )
    if "edm_mean" in tensors:
        raise SingleFileError(f"{path.name} is a Playground 2.5, which is trained in another way (EDM); {WHERE}")
    stated = metadata.get("modelspec.prediction_type", "")
    velocity = stated.startswith("v") or "v_pred" in tensors
    if velocity and not is_second:
        raise SingleFileError(
            f"{path.name} says that it predicts the velocity, which is read of Stable Diffusion 2.x only: convert it once to a "
            "folder whose scheduler states prediction_type v_prediction"
        )
    if is_second:
        return _SECOND if stated == "epsilon" or not (velocity or _predicts_velocity(path, tensors)) else _SECOND_V
    return _XL if _has(tensors, "conditioner.") else _FIRST


def _has(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _predicts_velocity(path: Path, tensors: Mapping[str, Stored]) -> bool:
    """Whether a Stable Diffusion 2.x whose metadata says nothing does: by its step, as diffusers tells it, or by its biases."""
    if "global_step" in tensors:
        return int(_values(path, tensors["global_step"]).flat[0]) != EPSILON_STEP
    return TELLING not in tensors or float(_values(path, tensors[TELLING]).std()) > LIMIT


def _values(path: Path, stored: Stored) -> np.ndarray:
    """The numbers of a small tensor. Raises SingleFileError for a type that numpy does not have."""
    plain = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "I64": "<i8", "BF16": "<u2"}
    if stored.dtype not in plain or not math.prod(stored.shape):
        raise SingleFileError(f"{path.name} does not say what it predicts, in metadata modelspec.prediction_type")
    with path.open("rb") as opened:
        opened.seek(stored.begin)
        numbers = np.frombuffer(opened.read(stored.end - stored.begin), plain[stored.dtype])
    # A bfloat16 is the upper half of a float32.
    return (numbers.astype("<u4") << 16).view("<f4") if stored.dtype == "BF16" else numbers.astype(np.float64)
