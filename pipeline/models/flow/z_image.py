"""Z-Image (Alibaba 2025): a Qwen3 text encoder asked as in a chat, and a transformer that draws by a flow."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Model

from pipeline.models.base import Conditioning, Tokens
from pipeline.models.latent_model import DenoiserPart, LatentModel
from pipeline.models.text.text_encoder import TextPart

ENCODER = "text_encoder"
LENGTH = 512  # tokens of a prompt in its template, as diffusers' pipeline has it
# What the published tokenizers' chat template puts around a user's message. The template in a model's folder is a program of a
# stranger, which can run for ever; it is never run.
BEFORE, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
SIDE = 128  # latents of the model's own pictures; no configuration says


class ZImage(LatentModel):
    """Z-Image; its prompts are read as a user's message in a chat."""

    TEXT: ClassVar = {
        ENCODER: TextPart(Qwen3Model, Qwen2Tokenizer, length=LENGTH, before=BEFORE, after=AFTER, masked=True, layer=-2)
    }
    DENOISER: ClassVar = DenoiserPart(ZImageTransformer2DModel, "transformer", "cap_feat_dim", patch=2, side=SIDE)

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        return Conditioning(self.read(tokens, words)[ENCODER].states, mask=self.mask(tokens))

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.mask is not None  # `embed` above makes it
        prompts = [
            states[mask] for states, mask in zip(conditioning.context.to(self.dtype), conditioning.mask, strict=True)
        ]
        # The model's time runs the other way, from noise at 0 to the picture at 1, and so does its velocity.
        said = self.denoiser(list(noisy.to(self.dtype)[:, :, None]), 1 - times / 1000, prompts).sample
        return -torch.stack([each[:, 0] for each in said]).to(noisy.dtype)

    def predict_guided(self, noisy: Tensor, time: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """As its authors count: the guidance scale is what is added to the prompt's own prediction, 0 for none."""
        return super().predict_guided(noisy, time, conditioning, 1 + guidance)
