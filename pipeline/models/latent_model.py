"""What all families share: a U-Net in the latent space of a first stage, told by text encoders what to draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from pipeline.models.attention import AttentionByKeys
from pipeline.models.base import Backbone, Conditioning, Posterior, PromptError, Tokens
from pipeline.models.find import Model, ModelError
from pipeline.models.first_stage import FirstStage
from pipeline.models.text_encoder import TextEncoder, TextPart
from pipeline.models.weights import digest, freeze, load_whole
from pipeline.settings import ModelSettings, Sampler

SAMPLERS: dict[Sampler, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


class LatentModel(Backbone):
    """A family names its text encoders and its first stage by their folders, and says how prompts become conditioning."""

    TEXT: ClassVar[Mapping[str, TextPart]]
    FIRST_STAGE: ClassVar[str] = "vae"

    def __init__(self, model: Model, device: torch.device, settings: ModelSettings) -> None:
        """Raises ModelError."""
        dtype, text_dtype = (getattr(torch, name) for name in settings.dtypes_on(device.type))
        self.name, self.device, self.dtype = model.name, device, dtype
        folder = model.folder
        try:
            self.text = {name: TextEncoder(part, folder, name, text_dtype) for name, part in self.TEXT.items()}
            self.unet = load_whole(UNet2DConditionModel, folder / "unet", torch_dtype=dtype)
            self.first_stage = FirstStage(folder / self.FIRST_STAGE, dtype, settings)
            self.noising = _noising(folder)
        except Exception as error:  # a broken file can raise anything
            raise ModelError(f"model {model.name!r} in {folder} does not load: {error}") from error
        if (predicts := self.noising.config.prediction_type) not in ("epsilon", "v_prediction"):
            raise ModelError(f"model {model.name!r} predicts {predicts!r}, not epsilon or v_prediction")
        for part in self._parts().values():
            try:
                freeze(part)
            except ValueError as error:
                raise ModelError(f"model {model.name!r}: {error}") from error
            if part is not self.first_stage.module:
                part.to(device)
        self.first_stage.move_to(device)
        self._kept = self.noising.alphas_cumprod  # on the CPU, where the noising moves its own to the latents' device
        self.vocabulary = max(encoder.embedding.num_embeddings for encoder in self.text.values())
        for encoder in self.text.values():
            encoder.learn_words_from(self.vocabulary)
        if device.type == "cpu":
            self.unet.set_attn_processor(AttentionByKeys())
            for encoder in self.text.values():
                encoder.module.set_attn_implementation("eager")
        self.resolution = self.unet.config.sample_size * self.first_stage.downsampling
        self.evaluations = 0
        self.unet.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.evaluations += 1

    def _parts(self) -> dict[str, nn.Module]:
        encoders = {name: encoder.module for name, encoder in self.text.items()}
        return encoders | {"unet": self.unet, self.FIRST_STAGE: self.first_stage.module}

    @property
    def encoders(self) -> Mapping[str, int]:
        return {name: encoder.embedding.embedding_dim for name, encoder in self.text.items()}

    @property
    def timesteps(self) -> int:
        return int(self.noising.config.num_train_timesteps)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return self.first_stage.latent_shape(resolution)

    def encode_images(self, pixels: np.ndarray) -> Posterior:
        return self.first_stage.encode(pixels)

    def decode(self, latents: Tensor) -> np.ndarray:
        return self.first_stage.decode(latents)

    def tokenise(self, prompts: Sequence[str], words: Mapping[str, range]) -> Tokens:
        rows = [[each for encoder in self.text.values() for each in encoder.ids(prompt, words)] for prompt in prompts]
        return Tokens(torch.tensor(rows, device=self.device))

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.unet(noisy.to(self.dtype), timesteps, conditioning.context.to(self.dtype)).sample.to(noisy.dtype)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.noising.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.noising.get_velocity(latents, noise, timesteps) if self.predicts_velocity else noise

    @property
    def predicts_velocity(self) -> bool:
        return bool(self.noising.config.prediction_type == "v_prediction")

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        kept = self._kept.to(timesteps.device)[timesteps].float()
        return kept / (1 - kept)

    def scheduler(self, sampler: str) -> Any:
        made = next((kind for name, kind in SAMPLERS.items() if name == sampler), None)
        if made is None:
            raise ValueError(f"sampler {sampler!r} is not known; choose {', '.join(sorted(SAMPLERS))}")
        # Latents go beyond [-1, 1]. DDIM cuts them off there unless it is told not to, and not every model's config tells it.
        unclipped = {"clip_sample": False} if sampler == "ddim" else {}
        return made.from_config(self.noising.config, **unclipped)

    def initial_vectors(self, text: str | None, count: int) -> dict[str, np.ndarray]:
        return {name: encoder.initial_vectors(text, count) for name, encoder in self.text.items()}

    def vocabulary_vectors(self, encoder: str) -> np.ndarray:
        return self.text[encoder].vectors

    def vocabulary_words(self) -> list[str]:
        return sorted(set.intersection(*(encoder.whole_words() for encoder in self.text.values())))

    def refuse_placeholder(self, placeholder: str) -> None:
        if any(len(encoder.text_ids(placeholder)) == 1 for encoder in self.text.values()):
            raise PromptError(
                f"placeholder {placeholder!r} already is a word of {self.name}; choose another, like <{placeholder}>"
            )

    def weights_digest(self) -> str:
        return digest(self._parts())


def _noising(folder: Path) -> DDPMScheduler:
    """The noise schedule the model was trained with, whichever sampler its scheduler/ is of. Raises ValueError."""
    config = DDPMScheduler.load_config(folder, subfolder="scheduler")
    if "beta_schedule" not in config:
        # Rectified flows and EDM's preconditioning have none; the library would make up a linear one.
        raise ValueError(f"its scheduler, {config.get('_class_name')}, has no beta_schedule")
    return DDPMScheduler.from_config(config)
