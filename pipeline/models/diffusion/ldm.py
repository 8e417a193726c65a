"""The paper's own latent diffusion (Rombach et al. 2022): a BERT-like text encoder, trained together with the U-Net."""

from collections.abc import Mapping
from typing import ClassVar

from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from torch import Tensor
from transformers import BertTokenizer

from pipeline.models.base import Conditioning, Tokens
from pipeline.models.latent_model import LatentModel
from pipeline.models.text.text_encoder import TextPart

ENCODER = "bert"


class LatentDiffusion(LatentModel):
    TEXT: ClassVar = {ENCODER: TextPart(LDMBertModel, BertTokenizer)}
    FIRST_STAGE = "vqvae"  # that is its folder's name whichever of the two kinds is in it

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        # Trained without an attention mask: padding is attended to like any token.
        return Conditioning(self.read(tokens, words)[ENCODER].states)
