"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIP text encoders and a T5, and a transformer that draws by a flow.

The CLIPs' states before their last layer lie side by side, padded to T5's width; T5's follow them. Both CLIPs also give a
summary of the prompt.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from pipeline.models.base import Conditioning, Tokens
from pipeline.models.latent_model import DenoiserPart, LatentModel
from pipeline.models.text.text_encoder import TextPart

CLIPS, T5 = ("text_encoder", "text_encoder_2"), "text_encoder_3"
LENGTH = 256  # tokens of a prompt for T5, as diffusers' pipeline has it


class StableDiffusion3(LatentModel):
    """Stable Diffusion 3 and 3.5, medium and large."""

    TEXT: ClassVar = {
        CLIPS[0]: TextPart(CLIPTextModelWithProjection, CLIPTokenizer, layer=-2, summarised=True),
        CLIPS[1]: TextPart(CLIPTextModelWithProjection, CLIPTokenizer, "tokenizer_2", layer=-2, summarised=True),
        T5: TextPart(T5EncoderModel, T5Tokenizer, "tokenizer_3", length=LENGTH),
    }
    DENOISER: ClassVar = DenoiserPart(
        SD3Transformer2DModel, "transformer", "joint_attention_dim", patch=2, even_sigmas=False
    )

    def taken_widths(self) -> Mapping[str, int]:
        pooled = sum(self.text[name].module.config.projection_dim for name in CLIPS)
        return {self.DENOISER.context: self.encoders[T5], "pooled_projection_dim": pooled}

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        said = self.read(tokens, words)
        long = said[T5].states
        short = torch.cat([said[name].states for name in CLIPS], dim=-1)
        short = F.pad(short, (0, long.shape[-1] - short.shape[-1]))
        pooled = [summary for name in CLIPS if (summary := said[name].summary) is not None]
        return Conditioning(torch.cat([short, long], dim=1), torch.cat(pooled, dim=-1))

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.pooled is not None  # `embed` above makes it
        said = self.denoiser(
            noisy.to(self.dtype), encoder_hidden_states=conditioning.context.to(self.dtype),
            pooled_projections=conditioning.pooled.to(self.dtype), timestep=times,
        )  # fmt: skip
        return said.sample.to(noisy.dtype)
