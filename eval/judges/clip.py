"""The CLIP that scores pictures: any that open_clip can load, or the shipped mini one.

A name, as given on the command line and recorded beside every score, is one of these:

    mini                          the shipped CLIP (64 px, made for the mini model's world)
    ViT-B-32-quickgelu:openai     open_clip's architecture and pretrained tag; the CLIP of the paper and of DreamBench
    hf-hub:ORG/NAME               an open_clip model on the Hugging Face hub, copied into the hub's cache as such a folder
    local-dir:FOLDER or FOLDER    a folder with open_clip_config.json, open_clip_model.safetensors and its tokenizer

Weights are read from safetensors only, and no code of a folder is run: see clip_folder.py.
"""

import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from eval.judges.clip_folder import (
    CONFIGURATION,
    TOKENIZER_FILES,
    WEIGHTS,
    check_clip_folder,
    refuse_outsized_clip,
    tokenizer_digest,
)
from eval.judges.judge import Features, Picture

MINI = "mini"
MINI_FOLDER = Path(__file__).parents[2] / "pipeline" / "mini" / "clip"
BATCH = 64

Item = TypeVar("Item")


class OpenClipScorer:
    """An open_clip model in fp32 and eval mode, with its own preprocessing (PIL resizing) and tokenizer.

    tokenizer_digest: sha256 of the tokenizer's files and settings, which `fingerprint` does not cover.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[..., Tensor],
        fingerprint: str,
        tokenizer_digest: str,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.tokenizer_digest = tokenizer_digest
        self._model: Any = model
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._width = int(self.encode_texts([""]).shape[1])

    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        """Pictures, PIL or uint8 (H, W, 3), of any sizes -> float32 (N, D), rows of length one."""
        batches = [
            self._encode(torch.stack([self._prepared(picture) for picture in batch]), self._model.encode_image)
            for batch in _batches(pictures)
        ]
        return np.concatenate([*batches, np.empty((0, self._width), np.float32)])

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """-> float32 (N, D), rows of length one.

        Raises ValueError for a text longer than the model can read, because its end would silently not be scored.
        """
        batches = [self._encode(self._tokenised(list(batch)), self._model.encode_text) for batch in _batches(texts)]
        return np.concatenate(batches) if batches else np.empty((0, self._width), np.float32)

    def refuse_long(self, texts: Sequence[str]) -> None:
        """Raises ValueError for a text longer than the model can read."""
        for batch in _batches(texts):
            self._tokenised(list(batch))

    def _prepared(self, picture: Picture) -> Tensor:
        return self._preprocess(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))

    def _tokenised(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(texts)
        room = tokens.shape[1]
        # A context one token longer changes the last token of exactly those texts that were truncated.
        cut = (self._tokenizer(texts, context_length=room + 1)[:, :room] != tokens).any(dim=1)
        for text, is_cut in zip(texts, cut.tolist(), strict=True):
            if is_cut:
                raise ValueError(
                    f"the prompt {text[:200]!r} is too long for {self.name}, which reads {room} tokens: shorten it"
                )
        return tokens

    @torch.no_grad()
    def _encode(self, batch: Tensor, encoder: Callable[[Tensor], Tensor]) -> Features:
        features: Features = F.normalize(encoder(batch.to(self._device)).float(), dim=-1).cpu().numpy()
        return features


class OpenClipPatchScorer(OpenClipScorer):
    """One whose tower of pictures is a vision transformer."""

    def encode_patches(self, pictures: Sequence[Picture]) -> Features:
        """-> float32 (N, G, G, D), the last layer's patches, vectors of length one."""
        batches = [
            self._encode(torch.stack([self._prepared(picture) for picture in batch]), self._patches)
            for batch in _batches(pictures)
        ]
        return np.concatenate(batches) if batches else np.empty((0, 1, 1, self._width), np.float32)

    def _patches(self, batch: Tensor) -> Tensor:
        layers = self._model.visual.forward_intermediates(
            batch, indices=1, normalize_intermediates=True, intermediates_only=True
        )
        patches: Tensor = layers["image_intermediates"][-1].permute(0, 2, 3, 1)
        return patches


def load_clip(name: str = MINI, device: str = "cpu") -> OpenClipScorer:
    """Loads a CLIP by one of the names above.

    Raises ValueError for a name that open_clip does not know, an architecture whose activation differs from that of its weights,
    and weights without safetensors; ConfigurationError (pipeline.models.configuration), a ValueError, for a configuration that
    would run code; and FileNotFoundError for a folder that is missing or incomplete.
    """
    folder = _folder(name)
    if folder is None:
        identifier, tag = _built_in(name)
        text = open_clip.get_model_config(identifier)["text_cfg"]
    else:
        identifier, tag = f"local-dir:{folder}", None
        text = check_clip_folder(name, folder)
    try:
        if folder is not None:
            refuse_outsized_clip(folder, lambda: _without_weights(identifier))
        model, preprocess = open_clip.create_model_from_pretrained(
            identifier, pretrained=tag, precision="fp32", device=device
        )
        # Only transformers' tokenizers have the option for remote code.
        off = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(identifier, **off)
    except (RuntimeError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"CLIP {name!r} does not load: {error}") from error
    model.eval().requires_grad_(False)
    digest = tokenizer_digest(folder, text) if folder else hashlib.sha256(name.encode()).hexdigest()
    patched = isinstance(model.visual, open_clip.transformer.VisionTransformer)
    made = OpenClipPatchScorer if patched else OpenClipScorer
    return made(name, model, preprocess, tokenizer, _fingerprint(model), digest)


def _without_weights(identifier: str) -> nn.Module:
    """The CLIP on the meta device, without open_clip's warning that its weights are random: they are never used."""

    def is_kept(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    logging.getLogger().addFilter(is_kept)
    try:
        return open_clip.create_model(identifier, load_weights=False, pretrained_text=False, device="meta")
    finally:
        logging.getLogger().removeFilter(is_kept)


def _folder(name: str) -> Path | None:
    """The folder with the CLIP's files; None for one of open_clip's own names. Raises ValueError."""
    if name == MINI:
        return MINI_FOLDER
    if name.startswith("hf-hub:"):
        return _downloaded(name)
    folder = Path(name.removeprefix("local-dir:"))
    return folder if name.startswith("local-dir:") or folder.is_dir() else None


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [CONFIGURATION, WEIGHTS, *TOKENIZER_FILES]
    repository, _, revision = name.removeprefix("hf-hub:").partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # the hub raises either, depending on what went wrong
        raise ValueError(f"CLIP {name!r}: it could not be fetched from the hub: {error}") from error


def _built_in(name: str) -> tuple[str, str]:
    """(open_clip's architecture, its pretrained tag), checked. Raises ValueError."""
    architecture, _, tag = name.partition(":")
    known = open_clip.list_pretrained(as_str=True)
    if not tag or name not in known:
        near = _advised(name, known)
        raise ValueError(
            f"there is no CLIP named {name!r}; it must be 'mini', a folder, 'hf-hub:ORG/NAME[@COMMIT]' or 'MODEL:WEIGHTS' as "
            "open_clip lists them" + (f", for instance {', '.join(near)}" if near else "")
        )
    _check_activation(architecture, tag)
    published = open_clip.get_pretrained_cfg(architecture, tag)
    safe = published.get("hf_hub")
    try:
        # If the hub has no safetensors, open_clip falls back to a pickle, which is refused below.
        safe = safe and open_clip.download_pretrained(published).endswith(".safetensors")
    except OSError as error:
        raise ValueError(f"CLIP {name!r}: its weights could not be fetched: {error}") from error
    if not safe:
        raise ValueError(
            f"CLIP {name!r}: its weights are published as a pickle alone, which can run code and is not loaded; take another "
            "CLIP, or a folder with open_clip_model.safetensors"
        )
    return architecture, tag


def _check_activation(architecture: str, tag: str) -> None:
    """Raises ValueError if weights trained with QuickGELU would run with GELU, or the reverse, which would shift every score.

    open_clip only warns. It has two architectures for such weights, one for each activation; an architecture without such a
    twin always has the right one.
    """
    right = _right_name(architecture, tag)
    if right in open_clip.list_pretrained(as_str=True) and right != f"{architecture}:{tag}":
        quick = right.startswith(f"{architecture}-quickgelu")
        raise ValueError(
            f"the weights {tag!r} were trained with {'QuickGELU' if quick else 'GELU'} and {architecture!r} has the "
            f"other activation, which would shift every score: say {right!r}"
        )


def _right_name(architecture: str, tag: str) -> str:
    """The name of the architecture with the activation that the weights were trained with."""
    base, quick = (
        architecture.removesuffix("-quickgelu"),
        open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"),
    )
    return f"{base}-quickgelu:{tag}" if quick else f"{base}:{tag}"


def _advised(name: str, known: Sequence[str]) -> list[str]:
    """Up to four similar valid names, those of the same architecture first, as the name of the weights may be missing."""
    architecture, _, weights = name.partition(":")
    wanted = architecture.removesuffix("-quickgelu").lower()
    pairs = [(each.partition(":")[0], each.partition(":")[2]) for each in known]
    own = [pair for pair in pairs if pair[0].removesuffix("-quickgelu").lower() == wanted]
    own.sort(key=lambda pair: -difflib.SequenceMatcher(None, pair[1], weights).ratio())  # stable: ties keep their order
    near = [
        (each.partition(":")[0], each.partition(":")[2])
        for each in difflib.get_close_matches(name, known, n=8, cutoff=0.5)
    ]
    published = [pair for pair in own + near if open_clip.get_pretrained_cfg(*pair).get("hf_hub")]
    right = dict.fromkeys(_right_name(*pair) for pair in published)
    return [each for each in right if each in known][:4]


def _fingerprint(model: nn.Module) -> str:
    """sha256 of the weights, and of the preprocessing and activation, on which features depend as well."""
    quick = any(isinstance(module, open_clip.transformer.QuickGELU) for module in model.modules())
    settings = {"preprocess": open_clip.get_model_preprocess_cfg(model), "quick_gelu": quick}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _batches(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
