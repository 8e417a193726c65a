"""PixArt-alpha and PixArt-Sigma (Chen et al. 2023, 2024): a T5 text encoder and a transformer over patches of latents."""

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import PixArtTransformer2DModel
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from pipeline.models.base import Conditioning, Tokens
from pipeline.models.latent_model import DenoiserPart, LatentModel
from pipeline.models.text.text_encoder import TextPart

ENCODER = "text_encoder"
ALPHA_LENGTH, SIGMA_LENGTH = 120, 300  # tokens of a prompt, as diffusers' two pipelines have it
SIZE_CONDITIONED = 128  # latents a side of the one model that takes its pictures' size and shape as a condition


class PixArtSigma(LatentModel):
    """PixArt-Sigma, whose prompts have up to 300 tokens."""

    TEXT: ClassVar = {ENCODER: TextPart(T5EncoderModel, T5Tokenizer, length=SIGMA_LENGTH, masked=True)}
    DENOISER: ClassVar = DenoiserPart(PixArtTransformer2DModel, "transformer", "caption_channels", patch=2)

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        return Conditioning(self.read(tokens, words)[ENCODER].states, mask=self.mask(tokens))

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.mask is not None  # `embed` above makes it
        said = self.denoiser(
            noisy.to(self.dtype), encoder_hidden_states=conditioning.context.to(self.dtype),
            encoder_attention_mask=conditioning.mask.long(), timestep=times, added_cond_kwargs=self._sizes(noisy),
        ).sample  # fmt: skip
        # Half of the channels are a variance that samplers do not use.
        return said[:, : noisy.shape[1]].to(noisy.dtype)

    def _sizes(self, noisy: Tensor) -> dict[str, Any]:
        if self.denoiser.config.sample_size != SIZE_CONDITIONED:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.first_stage.downsampling for side in noisy.shape[2:])
        size = self.numbers(height, width).to(self.dtype).expand(len(noisy), -1)
        return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}


class PixArtAlpha(PixArtSigma):
    """PixArt-alpha, whose prompts have up to 120 tokens."""

    TEXT: ClassVar = {ENCODER: TextPart(T5EncoderModel, T5Tokenizer, length=ALPHA_LENGTH, masked=True)}
