"""What all families share: text encoders, a denoiser in latent space, and a first stage."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.models.attention import AttentionByKeys, mask_unseen
from pipeline.models.base import (
    Backbone,
    Conditioning,
    Known,
    Posterior,
    PromptError,
    Tokens,
    spelled,
    split_at_placeholders,
)
from pipeline.models.configuration import refuse_over
from pipeline.models.device_memory import full_memory
from pipeline.models.families import FAMILIES
from pipeline.models.fast_passes import FastPasses, Inputs
from pipeline.models.find import Model, ModelError
from pipeline.models.first_stage import FirstStage
from pipeline.models.noising import RectifiedFlow, read_noising
from pipeline.models.precision import compute_float32_in_full, dtypes_on, loss_scale
from pipeline.models.text.read_sentences import States
from pipeline.models.text.text_encoder import TextEncoder, TextPart
from pipeline.models.weights.load_weights import digest, freeze, load_part
from pipeline.records import OUT
from pipeline.settings import FastMode, FlowTimes, ModelSettings

MOST_SIDE = 4_096  # pixels


@dataclass(frozen=True, slots=True)
class DenoiserPart:
    """The denoiser of a family: its class and folder.

    context: the entry of its configuration with the width of its context. patch: side of its patches in latents. side: of its own
    pictures in latents, where its configuration does not say.
    even_sigmas: see RectifiedFlow.
    """

    model: type[Any] = UNet2DConditionModel
    folder: str = "unet"
    context: str = "cross_attention_dim"
    patch: int = 1
    side: int | None = None
    even_sigmas: bool = True


class LatentModel(Backbone):
    """Base class of the families. A family names its text encoders, denoiser and first stage, and defines `embed`."""

    TEXT: ClassVar[Mapping[str, TextPart]]
    DENOISER: ClassVar[DenoiserPart] = DenoiserPart()
    FIRST_STAGE: ClassVar[str] = "vae"

    def __init__(self, model: Model, device: torch.device, settings: ModelSettings) -> None:
        """Raises ModelError."""
        compute_float32_in_full()
        try:
            dtype, text_dtype = dtypes_on(device, settings)
        except ValueError as error:
            raise ModelError(f"model {model.name!r}: {error}") from error
        self.name, self.device, self.dtype = model.name, device, dtype
        self._family = FAMILIES[model.family]
        self._dtypes = {dtype, text_dtype}
        try:
            offload = settings.offload_text_encoders
            self.text = {
                name: TextEncoder(part, model, name, text_dtype, offload=offload) for name, part in self.TEXT.items()
            }
            self.denoiser = load_part(model, self.DENOISER.folder, self.DENOISER.model, dtype)
            self.first_stage = FirstStage(model, self.FIRST_STAGE, dtype, settings)
            self.noising = read_noising(model.folder, self.DENOISER.even_sigmas)
            self._family.refuse_other_noising(is_flow=isinstance(self.noising, RectifiedFlow))
            side = self.DENOISER.side or self.denoiser.config.sample_size
            self.resolution = side * self.first_stage.downsampling
            refuse_over(self.resolution, MOST_SIDE, "pictures with a side")
        except Exception as error:  # a broken file can raise anything
            raise ModelError(f"model {model.name!r} in {model.file or model.folder} does not load: {error}") from error
        for part in self._parts().values():
            try:
                freeze(part)
            except ValueError as error:
                raise ModelError(f"model {model.name!r}: {error}") from error
        self._refuse_others_encoders()
        self.denoiser.to(device)
        self.first_stage.move_to(device)
        for encoder in self.text.values():
            encoder.move_to(device)
        self.vocabulary = max(encoder.embedding.num_embeddings for encoder in self.text.values())
        for encoder in self.text.values():
            encoder.learn_words_from(self.vocabulary)
        if device.type == "cpu":
            if isinstance(self.denoiser, UNet2DConditionModel):
                self.denoiser.set_attn_processor(AttentionByKeys())
            for encoder in self.text.values():
                encoder.module.set_attn_implementation("eager")
        else:
            for encoder in self.text.values():
                if encoder.masked and encoder.module.config._attn_implementation == "sdpa":
                    mask_unseen(encoder.module)
        self.evaluations = 0
        self._numbers: dict[tuple[float, ...], Tensor] = {}
        self._fast: FastPasses | None = None
        self.denoiser.register_forward_hook(self._count)

    def taken_widths(self) -> Mapping[str, int]:
        """Entry of the denoiser's configuration -> how wide the text encoders make what it is about."""
        (width,) = self.encoders.values()
        return {self.DENOISER.context: width}

    def _refuse_others_encoders(self) -> None:
        """Raises ModelError for text encoders that the denoiser was not trained with: every concept would fail on them."""
        for entry, width in self.taken_widths().items():
            stated = self.denoiser.config.get(entry)
            if stated != width and not self.denoiser.config.get("encoder_hid_dim"):
                raise ModelError(
                    f"model {self.name!r}: {self.DENOISER.folder}/config.json states {entry} {stated}, and its text encoders give "
                    f"{width} numbers: put the text encoders there that belong to this {self.DENOISER.folder}"
                )

    def _count(self, *_: object) -> None:
        self.evaluations += 1

    def _parts(self) -> dict[str, nn.Module]:
        encoders = {name: encoder.module for name, encoder in self.text.items()}
        return encoders | {self.DENOISER.folder: self.denoiser, self.FIRST_STAGE: self.first_stage.module}

    @property
    def encoders(self) -> Mapping[str, int]:
        return {name: encoder.embedding.embedding_dim for name, encoder in self.text.items()}

    @property
    def word_keys(self) -> Mapping[str, str]:
        return self._family.word_keys

    @property
    def word_widths(self) -> Mapping[str, int]:
        widths = self.encoders  # in every known text encoder, a token's state is as wide as its embedding
        return {name: widths[name.removesuffix(OUT)] for name in self.word_keys}

    def architecture_of(self, vectors: Mapping[str, np.ndarray]) -> str:
        return self._family.architecture_of(vectors)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return self.first_stage.latent_shape(resolution)

    def encode_images(self, pixels: np.ndarray) -> Posterior:
        return self.first_stage.encode(pixels)

    def decode(self, latents: Tensor) -> np.ndarray:
        return self.first_stage.decode(latents)

    def tokenise(self, prompts: Sequence[str], words: Mapping[str, range], known: Known | None = None) -> Tokens:
        known = known or {}
        parts = []
        for name, encoder in self.text.items():
            own = {name, name + OUT}
            there = {word: rows for word, rows in words.items() if own & set(known.get(word, self.text))}
            parts.append([encoder.ids(_read_by(prompt, words, there), there) for prompt in prompts])
        rows = [[each for part in of_prompt for each in part] for of_prompt in zip(*parts, strict=True)]
        ids = torch.tensor(rows)
        return Tokens(ids.to(self.device), ids)

    def read(self, tokens: Tokens, words: Mapping[str, Tensor]) -> dict[str, States]:
        """Text encoder -> what it says of the prompts. words: as for `embed`."""
        lengths = [encoder.context for encoder in self.text.values()]
        host = tokens.ids.cpu() if tokens.host is None else tokens.host
        parts = zip(self.text.items(), tokens.ids.split(lengths, 1), host.split(lengths, 1), strict=True)
        once = any(name.endswith(OUT) for name in words)
        return {
            name: encoder.read(ids, on_host, words.get(name), words.get(name + OUT), once=once)
            for (name, encoder), ids, on_host in parts
        }

    def mask(self, tokens: Tokens) -> Tensor:
        """bool (B, L) of a model with one text encoder: all but the padding at the end."""
        (encoder,) = self.text.values()
        return encoder.mask(tokens.ids)

    def numbers(self, *numbers: float) -> Tensor:
        """float32 (N,) on the device. They are sent there once and kept, because a captured graph reads them later."""
        if numbers not in self._numbers:
            self._numbers[numbers] = torch.tensor(numbers, dtype=torch.float32, device=self.device)
        return self._numbers[numbers]

    def predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        context = conditioning.context.to(self.dtype)
        return self.denoiser(noisy.to(self.dtype), times, context).sample.to(noisy.dtype)

    def predict_in_training(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        if self._fast is None:
            return self.predict(noisy, times, conditioning)
        before = self.evaluations
        predicted = self._fast(noisy, times, conditioning)
        self.evaluations = max(self.evaluations, before + 1)  # a replayed graph calls no hook
        return predicted

    @torch.no_grad()
    @full_memory()
    def make_faster(self, mode: FastMode, batch: int, resolution: int) -> None:
        self.make_usual()
        example, other = (self._example(batch, resolution, seed, prompt) for seed, prompt in enumerate(("", "a cat")))
        self._fast = FastPasses(self.denoiser, self.predict, mode, example, other)

    def _example(self, batch: int, resolution: int, seed: int, prompt: str) -> Inputs:
        shape = self.latent_shape(resolution)
        generator = torch.Generator().manual_seed(seed)
        noisy = torch.randn((batch, *shape), generator=generator)
        places = torch.rand(batch, generator=generator, dtype=torch.float64)
        times = self.times(places, 1, (shape[1], shape[2]), "uniform")
        conditioning = self.embed(self.tokenise([prompt] * batch, {}), {})
        return noisy.to(self.device), times.to(self.device), conditioning

    def make_usual(self) -> bool:
        fast, self._fast = self._fast, None
        if fast is not None:
            fast.undo()
        return fast is not None

    def times(self, places: Tensor, parts: int, size: tuple[int, int], flow_times: FlowTimes) -> Tensor:
        return self.noising.times(places, parts, self.tokens_of(size), flow_times)

    def tokens_of(self, size: tuple[int, int]) -> int:
        """Patches of latents of (h, w)."""
        return (size[0] // self.DENOISER.patch) * (size[1] // self.DENOISER.patch)

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return self.noising.add_noise(latents, noise, times)

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return self.noising.target(latents, noise, times)

    @property
    def predicts_velocity(self) -> bool:
        return self.noising.predicts_velocity

    def signal_to_noise(self, times: Tensor) -> Tensor:
        return self.noising.signal_to_noise(times)

    def checkpoint_gradients(self, on: bool) -> bool:
        if not getattr(self.denoiser, "_supports_gradient_checkpointing", False):
            return False
        if on:
            self.denoiser.enable_gradient_checkpointing(_recomputed)
        else:
            self.denoiser.disable_gradient_checkpointing()
        return on

    def loss_scale(self, values: int) -> float:
        return loss_scale(self._dtypes, values)

    def scheduler(self, sampler: str, steps: int, size: tuple[int, int]) -> Any:
        return self.noising.scheduler(sampler, steps, self.tokens_of(size), self.device)

    def initial_vectors(self, text: str | None, count: int, names: Collection[str] = ()) -> dict[str, np.ndarray]:
        vectors = {}
        for name in names or self.text:
            encoder = self.text[name.removesuffix(OUT)]
            vectors[name] = (encoder.initial_states if name.endswith(OUT) else encoder.initial_vectors)(text, count)
        return vectors

    def usual_length(self, name: str) -> float:
        if name.endswith(OUT):
            return self.text[name.removesuffix(OUT)].usual_states_length
        return float(np.linalg.norm(self.vocabulary_vectors(name), axis=1).mean())

    def output_vectors(self, text: str | None, count: int) -> dict[str, np.ndarray]:
        return {name: encoder.output_vectors(text, count) for name, encoder in self.text.items()}

    def vocabulary_vectors(self, encoder: str) -> np.ndarray:
        return self.text[encoder].vectors

    def vocabulary_words(self) -> list[str]:
        return sorted(set.intersection(*(encoder.whole_words() for encoder in self.text.values())))

    def refuse_placeholder(self, placeholder: str) -> None:
        if any(len(encoder.text_ids(placeholder)) == 1 for encoder in self.text.values()):
            raise PromptError(
                f"placeholder {placeholder!r} already is a word of {self.name}; choose another, like <{placeholder}>"
            )

    def weights_digest(self) -> str:
        return digest(self._parts())


def _recomputed(block: Callable[..., Any], *inputs: Any) -> Any:
    """A block's output, of which it keeps the inputs only. A frozen model draws nothing at random, so that no generator's state
    needs to be kept: reading it is forbidden while a CUDA graph is captured.
    """
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)


def _read_by(prompt: str, words: Collection[str], known: Collection[str]) -> str:
    """The prompt as a text encoder reads it that knows some of the words: the others as plain text."""
    if len(known) == len(words):
        return prompt
    others = {word.lower(): spelled(word) for word in words if word not in known}
    return "".join(others.get(piece.lower(), piece) for piece in split_at_placeholders(prompt, list(words)))
