"""Qwen-Image (Wu et al. 2025): a Qwen2.5-VL text encoder asked to describe a picture, and a transformer that draws by a flow."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from pipeline.models.base import Conditioning, Tokens
from pipeline.models.flow.patches import packed, unpacked
from pipeline.models.latent_model import DenoiserPart, LatentModel
from pipeline.models.text.text_encoder import TextPart

ENCODER = "text_encoder"
# The model was trained with this request around every prompt.
BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
LENGTH = (
    256  # tokens of a prompt in its template; diffusers' pipeline takes up to 1,058, and pads to the longest prompt
)
DROPPED = 34  # tokens of BEFORE, which the transformer does not get
SIDE = 128  # latents of the model's own pictures; no configuration says


class QwenImage(LatentModel):
    """Qwen-Image; what its text encoder says of BEFORE is dropped."""

    TEXT: ClassVar = {
        ENCODER: TextPart(
            Qwen2_5_VLForConditionalGeneration,
            Qwen2Tokenizer,
            length=LENGTH,
            before=BEFORE,
            after=AFTER,
            masked=True,
            layer=-1,
        )
    }
    DENOISER: ClassVar = DenoiserPart(
        QwenImageTransformer2DModel, "transformer", "joint_attention_dim", patch=2, side=SIDE
    )

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        states = self.read(tokens, words)[ENCODER].states
        return Conditioning(states[:, DROPPED:], mask=self.mask(tokens)[:, DROPPED:])

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.mask is not None  # `embed` above makes it
        height, width = noisy.shape[2:]
        context = conditioning.context * conditioning.mask[..., None]  # padding is zeros, as in diffusers' pipeline
        said = self.denoiser(
            hidden_states=packed(noisy).to(self.dtype), timestep=times / 1000,
            encoder_hidden_states=context.to(self.dtype), encoder_hidden_states_mask=conditioning.mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
        ).sample  # fmt: skip
        return unpacked(said, height, width).to(noisy.dtype)

    def predict_guided(self, noisy: Tensor, time: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """The guided prediction of each patch is as long as the prompt's own."""
        height, width = noisy.shape[2:]
        twice = torch.cat([noisy, noisy])
        without, with_prompt = self.predict(twice, time.expand(len(twice)), conditioning).chunk(2)
        own = packed(with_prompt)
        guided = packed(without) + guidance * (own - packed(without))
        lengths = own.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return unpacked(guided * lengths, height, width)
