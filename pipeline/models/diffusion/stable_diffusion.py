"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, of which the last layer's states, normalised, are attended to.

2.x uses the states before the last layer: its text encoder is saved without that layer.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.models.base import Conditioning, Tokens
from pipeline.models.latent_model import LatentModel
from pipeline.models.text.text_encoder import TextPart

ENCODER = "text_encoder"


class StableDiffusion(LatentModel):
    TEXT: ClassVar = {ENCODER: TextPart(CLIPTextModel, CLIPTokenizer)}

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        return Conditioning(self.read(tokens, words)[ENCODER].states)
