"""Stable Diffusion XL (Podell et al. 2023): two CLIP text encoders with a word in each, and a U-Net conditioned on sizes.

The U-Net attends to both encoders' states before their last layer, side by side. Besides, it is given the second encoder's
projected state at the end of the prompt, and the picture's size before cropping, crop and size.
"""

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipeline.models.base import Conditioning, Known, Tokens, apart
from pipeline.models.find import Model, ModelError
from pipeline.models.latent_model import LatentModel
from pipeline.models.text.text_encoder import TextPart
from pipeline.settings import ModelSettings

FIRST, SECOND = "text_encoder", "text_encoder_2"


class StableDiffusionXL(LatentModel):
    TEXT: ClassVar = {
        FIRST: TextPart(CLIPTextModel, CLIPTokenizer, layer=-2),
        SECOND: TextPart(CLIPTextModelWithProjection, CLIPTokenizer, "tokenizer_2", layer=-2, summarised=True),
    }

    def __init__(self, model: Model, device: torch.device, settings: ModelSettings) -> None:
        super().__init__(model, device, settings)
        contexts = {name: encoder.context for name, encoder in self.text.items()}
        if len(set(contexts.values())) > 1:
            raise ModelError(f"model {model.name!r}: its text encoders take prompts of unequal lengths: {contexts}")
        if (takes := self.denoiser.config.addition_embed_type) != "text_time":
            raise ModelError(f"model {model.name!r}: its U-Net takes {takes!r}, not 'text_time'")
        index = json.loads((model.folder / "model_index.json").read_text(encoding="utf-8"))
        self.zeros_without_prompt = index.get("force_zeros_for_empty_prompt", True)

    def taken_widths(self) -> Mapping[str, int]:
        times = 6 * (self.denoiser.config.addition_time_embed_dim or 0)
        pooled = self.text[SECOND].module.config.projection_dim + times
        return {self.DENOISER.context: sum(self.encoders.values()), "projection_class_embeddings_input_dim": pooled}

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        first, second = self.read(tokens, words).values()
        return Conditioning(torch.cat([first.states, second.states], dim=-1), second.summary)

    def embed_guided(
        self, prompts: Sequence[str], rows: Mapping[str, range], words: Mapping[str, Tensor], known: Known | None = None
    ) -> Conditioning:
        if not self.zeros_without_prompt:
            return super().embed_guided(prompts, rows, words, known)
        wanted, against = apart(prompts)
        given = torch.tensor([bool(each) for each in against], device=self.device)
        both = self.embed(self.tokenise([*against, *wanted] if any(against) else wanted, rows, known), words)
        assert both.pooled is not None  # `embed` above makes it
        context, pooled = (self._zeros_but(given, part) for part in (both.context, both.pooled))
        return Conditioning(context, pooled)

    def _zeros_but(self, given: Tensor, part: Tensor) -> Tensor:
        """given: bool (B,), the prompts with a negative prompt. part: of the negative prompts, if any is given, and the prompts."""
        wanted = part[-len(given) :]
        against = torch.where(given.view(-1, *[1] * (part.ndim - 1)), part[: len(given)], 0.0)
        return torch.cat([against if len(part) > len(given) else torch.zeros_like(wanted), wanted])

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.pooled is not None  # `embed` above makes it
        sizes = self._sizes(noisy).expand(len(noisy), -1)
        added = {"text_embeds": conditioning.pooled.to(self.dtype), "time_ids": sizes}
        said = self.denoiser(noisy.to(self.dtype), times, conditioning.context.to(self.dtype), added_cond_kwargs=added)
        return said.sample.to(noisy.dtype)

    def _sizes(self, noisy: Tensor) -> Tensor:
        """float32 (6,): what latents of that size are said to be.

        Training pictures come cropped and resized; they and samples alike are said to be whole pictures of their size.
        """
        height, width = (side * self.first_stage.downsampling for side in noisy.shape[2:])
        return self.numbers(height, width, 0, 0, height, width)
