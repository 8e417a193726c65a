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
from pipeline.models.text_encoder import TextPart

CLIPS, T5 = ("text_encoder", "text_encoder_2"), "text_encoder_3"
LENGTH = 256  # tokens of a prompt for T5, as diffusers' pipeline has it


class StableDiffusion3(LatentModel):
    """Stable Diffusion 3 and 3.5, medium and large."""

    TEXT: ClassVar = {
        CLIPS[0]: TextPart(CLIPTextModelWithProjection, CLIPTokenizer),
        CLIPS[1]: TextPart(CLIPTextModelWithProjection, CLIPTokenizer, "tokenizer_2"),
        T5: TextPart(T5EncoderModel, T5Tokenizer, "tokenizer_3", length=LENGTH),
    }
    DENOISER: ClassVar = DenoiserPart(SD3Transformer2DModel, "transformer", patch=2, even_sigmas=False)

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        ids = self.split(tokens)
        clips = [self._clip(name, ids[name], words.get(name)) for name in CLIPS]
        long = self.text[T5](ids[T5], words.get(T5)).last_hidden_state
        short = torch.cat([states for states, _ in clips], dim=-1)
        short = F.pad(short, (0, long.shape[-1] - short.shape[-1]))
        return Conditioning(torch.cat([short, long], dim=1), torch.cat([pooled for _, pooled in clips], dim=-1))

    def _clip(self, name: str, ids: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor]:
        """States before the last layer (B, L, D), and the projected state at the end of the prompt (B, P)."""
        encoder = self.text[name]
        said = encoder(ids, words, output_hidden_states=True)
        # The encoder's own pooling may look for the highest id, which is a learned word's.
        ends = (ids == encoder.end[-1]).int().argmax(dim=1)
        pooled = encoder.module.text_projection(
            said.last_hidden_state[torch.arange(len(ends), device=ends.device), ends]
        )
        return said.hidden_states[-2], pooled

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.pooled is not None  # `embed` above makes it
        said = self.denoiser(
            noisy.to(self.dtype), encoder_hidden_states=conditioning.context.to(self.dtype),
            pooled_projections=conditioning.pooled.to(self.dtype), timestep=times,
        )  # fmt: skip
        return said.sample.to(noisy.dtype)
