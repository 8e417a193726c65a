"""Sana (Xie et al. 2024): Gemma-2 as text encoder, a linear transformer, and an autoencoder that shrinks a side to a 32nd."""

from collections.abc import Mapping
from typing import ClassVar

from diffusers import SanaTransformer2DModel
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizer

from pipeline.models.base import Conditioning, Tokens
from pipeline.models.latent_model import DenoiserPart, LatentModel
from pipeline.models.text.text_encoder import TextPart

ENCODER = "text_encoder"
LENGTH = 300  # tokens that the transformer attends to, as diffusers' pipeline has it


class Sana(LatentModel):
    """Prompts go in as they are; diffusers' pipeline does the same with `complex_human_instruction=None`."""

    TEXT: ClassVar = {ENCODER: TextPart(Gemma2Model, GemmaTokenizer, length=LENGTH, masked=True)}
    DENOISER: ClassVar = DenoiserPart(SanaTransformer2DModel, "transformer", "caption_channels")

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        return Conditioning(self.read(tokens, words)[ENCODER].states, mask=self.mask(tokens))

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.mask is not None  # `embed` above makes it
        said = self.denoiser(
            noisy.to(self.dtype), encoder_hidden_states=conditioning.context.to(self.dtype),
            encoder_attention_mask=conditioning.mask.long(), timestep=times * self.denoiser.config.timestep_scale,
        ).sample  # fmt: skip
        return said[:, : noisy.shape[1]].to(noisy.dtype)
