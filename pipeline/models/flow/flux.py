"""Flux.1 (Black Forest Labs 2024), conditioned on T5's states and a CLIP's summary of the prompt, and Chroma, on T5's states alone.

Flux was distilled: "dev" is given the guidance scale as a number, "schnell" takes none. Chroma is guided as usual.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import ChromaTransformer2DModel, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from pipeline.models.base import Conditioning, Known, PromptError, Tokens, apart
from pipeline.models.flow.patches import packed, unpacked
from pipeline.models.latent_model import DenoiserPart, LatentModel
from pipeline.models.text.text_encoder import TextPart

LENGTH = 512  # tokens of a prompt for T5, as diffusers' pipelines have it
SIDE = 128  # latents of the models' own pictures; no configuration says
TRAINED_AT = 1.0  # the guidance at which "dev" draws its training pictures, as its public trainers do


class Flux(LatentModel):
    """Flux.1 dev and schnell."""

    TEXT: ClassVar = {
        "text_encoder": TextPart(CLIPTextModel, CLIPTokenizer, summarised=True),
        "text_encoder_2": TextPart(T5EncoderModel, T5Tokenizer, "tokenizer_2", length=LENGTH),
    }
    DENOISER: ClassVar = DenoiserPart(FluxTransformer2DModel, "transformer", "joint_attention_dim", patch=2, side=SIDE)

    def taken_widths(self) -> Mapping[str, int]:
        clip, t5 = self.encoders.values()
        return {self.DENOISER.context: t5, "pooled_projection_dim": clip}

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        clip, t5 = self.read(tokens, words).values()
        return Conditioning(t5.states, clip.summary)

    def embed_guided(
        self, prompts: Sequence[str], rows: Mapping[str, range], words: Mapping[str, Tensor], known: Known | None = None
    ) -> Conditioning:
        """The B prompts alone: guidance is distilled into the model. Raises PromptError for a negative prompt."""
        if against := next((each for each in apart(prompts)[1] if each), None):
            raise PromptError(
                f"negative prompt {against!r}: {self.name} takes none, as its guidance is distilled into it"
            )
        return self.embed(self.tokenise(prompts, rows, known), words)

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        return self._predict(noisy, times, conditioning, TRAINED_AT)

    def predict_guided(self, noisy: Tensor, time: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        return self._predict(noisy, time.expand(len(noisy)), conditioning, guidance)

    def _predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        assert conditioning.pooled is not None  # `embed` above makes it
        extra: dict[str, Any] = {"pooled_projections": conditioning.pooled.to(self.dtype)}
        if self.denoiser.config.guidance_embeds:
            extra["guidance"] = torch.full((len(noisy),), guidance, device=noisy.device)
        return _on_patches(self, noisy, times, conditioning, extra)


class Chroma(LatentModel):
    """Chroma, which was made of schnell and is guided by a negative prompt again."""

    TEXT: ClassVar = {"text_encoder": TextPart(T5EncoderModel, T5Tokenizer, length=LENGTH, masked=True)}
    DENOISER: ClassVar = DenoiserPart(
        ChromaTransformer2DModel, "transformer", "joint_attention_dim", patch=2, side=SIDE
    )

    def embed(self, tokens: Tokens, words: Mapping[str, Tensor]) -> Conditioning:
        mask = self.mask(tokens)
        states = self.read(tokens, words)["text_encoder"].states
        # The transformer also attends to the first padding token.
        places = torch.arange(mask.shape[1], device=mask.device)
        return Conditioning(states, mask=places <= mask.sum(1, keepdim=True))

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.mask is not None  # `embed` above makes it
        picture = torch.ones(len(noisy), self.tokens_of((noisy.shape[2], noisy.shape[3])), device=noisy.device)
        mask = torch.cat([conditioning.mask.to(picture.dtype), picture], dim=1)
        return _on_patches(self, noisy, times, conditioning, {"attention_mask": mask.to(self.dtype)})


def _on_patches(
    model: LatentModel, noisy: Tensor, times: Tensor, conditioning: Conditioning, extra: Mapping[str, Any]
) -> Tensor:
    height, width = noisy.shape[2:]
    rows, columns = (torch.arange(side // 2, device=noisy.device) for side in (height, width))
    grid = torch.cartesian_prod(rows, columns)
    said = model.denoiser(
        hidden_states=packed(noisy).to(model.dtype), timestep=times.to(model.dtype) / 1000,
        encoder_hidden_states=conditioning.context.to(model.dtype),
        txt_ids=torch.zeros(conditioning.context.shape[1], 3, device=noisy.device, dtype=model.dtype),
        img_ids=torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1).to(model.dtype), **extra,
    ).sample  # fmt: skip
    return unpacked(said, height, width).to(noisy.dtype)
