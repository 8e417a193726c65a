"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, epsilon or velocity prediction as the scheduler's config says."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.backbones.base import Backbone, Posterior, PromptError, Tokens, split_at_placeholders
from pipeline.models import Model, ModelError

ENCODER = "text_encoder"
SAMPLERS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}
DECODE_AT_ONCE = 8


class WordTable(nn.Module):
    """A token embedding whose table goes on, after the frozen vocabulary, with the words being learned."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.words: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (B, L) -> (B, L, D)."""
        size = self.base.num_embeddings
        known = self.base(ids.clamp_max(size - 1))
        if self.words is None:
            return known
        learned = F.embedding((ids - size).clamp_min(0), self.words.to(known.dtype))
        return torch.where((ids >= size)[..., None], learned, known)


class StableDiffusion(Backbone):
    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        self.name, self.device, self.dtype = model.name, device, dtype
        folder = model.folder
        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
            # The first stage stays in fp32: Stable Diffusion's overflows in fp16, and it runs once a picture.
            self.text_encoder = _load_whole(CLIPTextModel, folder / "text_encoder", dtype=dtype)
            self.unet = _load_whole(UNet2DConditionModel, folder / "unet", torch_dtype=dtype)
            self.vae = _load_whole(AutoencoderKL, folder / "vae", torch_dtype=torch.float32)
            self.noising = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        except Exception as error:  # a broken file can raise anything
            raise ModelError(f"model {model.name!r} in {folder} does not load: {error}") from error
        if (predicts := self.noising.config.prediction_type) not in ("epsilon", "v_prediction"):
            raise ModelError(f"model {model.name!r} predicts {predicts!r}, not epsilon or v_prediction")
        for part in self._parts():
            part.requires_grad_(False).eval()
            for name, value in part.named_parameters():
                if not torch.isfinite(value).all():
                    raise ModelError(f"model {model.name!r}: weight {name} of {type(part).__name__} is not finite")
        for part in self._parts():
            part.to(device)
        self.words = WordTable(self.text_encoder.get_input_embeddings())
        self.text_encoder.set_input_embeddings(self.words)
        if device.type == "cpu":
            # torch's fused attention is slower on a CPU than plain matrix products, forwards and much more so backwards.
            self.unet.set_attn_processor(AttnProcessor())
            self.text_encoder.set_attn_implementation("eager")
        self.vocabulary = self.words.base.num_embeddings
        # A tokenizer that names no limit says 10^30.
        self.context = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        self.resolution = self.unet.config.sample_size * self._downsampling

    def _parts(self) -> tuple[nn.Module, ...]:
        return self.text_encoder, self.unet, self.vae

    @property
    def _downsampling(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def encoders(self) -> Mapping[str, int]:
        return {ENCODER: self.words.base.embedding_dim}

    @property
    def timesteps(self) -> int:
        return int(self.noising.config.num_train_timesteps)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // self._downsampling
        return self.vae.config.latent_channels, side, side

    @torch.no_grad()
    def encode_images(self, pixels: np.ndarray) -> Posterior:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(self.device, torch.float32) / 127.5 - 1
        posteriors = [self.vae.encode(some).latent_dist for some in images.split(DECODE_AT_ONCE)]
        scale, shift = self._scale_and_shift()
        return Posterior(
            torch.cat([(posterior.mean - shift) * scale for posterior in posteriors]),
            torch.cat([posterior.std * scale for posterior in posteriors]),
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        scale, shift = self._scale_and_shift()
        images = [self.vae.decode(some.float() / scale + shift).sample for some in latents.split(DECODE_AT_ONCE)]
        pixels = (torch.cat(images) / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    def _scale_and_shift(self) -> tuple[float, float]:
        return self.vae.config.scaling_factor, getattr(self.vae.config, "shift_factor", None) or 0.0

    def tokenise(self, prompts: Sequence[str], words: Mapping[str, range]) -> Tokens:
        return Tokens(torch.tensor([self._ids(prompt, words) for prompt in prompts], device=self.device))

    def _ids(self, prompt: str, words: Mapping[str, range]) -> list[int]:
        by_name = {name.lower(): rows for name, rows in words.items()}
        ids: list[int] = []
        for piece in split_at_placeholders(prompt, list(words)):
            rows = by_name.get(piece.lower())
            ids += self._text_ids(piece) if rows is None else [self.vocabulary + row for row in rows]
        room = self.context - 2
        if len(ids) > room:
            raise PromptError(f"prompt {prompt!r} has {len(ids)} tokens; {self.name} takes {room}: shorten it")
        pad = self.tokenizer.pad_token_id
        padding = [pad if pad is not None else self.tokenizer.eos_token_id] * (room - len(ids))
        return [self.tokenizer.bos_token_id, *ids, self.tokenizer.eos_token_id, *padding]

    def _text_ids(self, text: str) -> list[int]:
        # verbose=False: our own error for a long prompt says more than the tokenizer's warning.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Tensor:
        self.words.words = words.get(ENCODER)
        try:
            return self.text_encoder(tokens.ids).last_hidden_state
        finally:
            self.words.words = None

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self.unet(noisy.to(self.dtype), timesteps, context).sample.float()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.noising.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.noising.config.prediction_type == "v_prediction":
            return self.noising.get_velocity(latents, noise, timesteps)
        return noise

    def scheduler(self, sampler: str) -> Any:
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is not known; choose {', '.join(sorted(SAMPLERS))}")
        return SAMPLERS[sampler].from_config(self.noising.config)

    def initial_vectors(self, text: str | None, count: int) -> dict[str, np.ndarray]:
        table = self.words.base.weight.detach().float().cpu().numpy()
        if text is None:
            mean = table.mean(0)
            # The mean of many words is far shorter than any of them; give it the length of a word.
            mean *= np.median(np.linalg.norm(table, axis=1)) / max(np.linalg.norm(mean), 1e-12)
            return {ENCODER: np.repeat(mean[None], count, 0)}
        ids = self._text_ids(text)
        if not ids:
            raise PromptError(f"initializer {text!r} has no token in {self.name}'s vocabulary")
        rows = table[ids]
        if len(ids) < count:
            return {ENCODER: rows[np.arange(count) % len(ids)]}
        return {ENCODER: np.stack([part.mean(0) for part in np.array_split(rows, count)])}

    def refuse_placeholder(self, placeholder: str) -> None:
        if len(self._text_ids(placeholder)) == 1:
            raise PromptError(
                f"placeholder {placeholder!r} already is a word of {self.name}; choose another, like <{placeholder}>"
            )

    def weights_digest(self) -> str:
        digest = hashlib.sha256()
        for name, value in self._weights():
            digest.update(name.encode())
            digest.update(value.detach().contiguous().cpu().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for part in self._parts():
            for name, value in sorted(part.state_dict().items()):
                # The word table wraps the token embedding without changing it; its weights keep their name.
                yield f"{type(part).__name__}/{name.replace('token_embedding.base.', 'token_embedding.')}", value


def _load_whole(kind: type[Any], folder: Path, **precision: torch.dtype) -> Any:
    """The model in the folder. Raises ValueError for one whose weights the library would complete with random numbers."""
    part, loaded = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **precision)
    if loaded["missing_keys"]:
        raise ValueError(f"{folder} lacks the weights {', '.join(sorted(loaded['missing_keys'])[:5])}")
    return part
