"""The families of models: which folders hold their weights, and which class draws with them. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.records import OUT
from pipeline.settings import Sampler, WordPlace

DIFFUSION_SAMPLERS: tuple[Sampler, ...] = ("ddim", "dpm++", "euler")
FLOW_SAMPLERS: tuple[Sampler, ...] = ("dpm++", "euler")


@dataclass(frozen=True, slots=True)
class Family:
    """title: its name for people. module, backbone: module and name of the class that loads it.

    encoders: folder of a text encoder -> its name in word files of several encoders.
    summarised: those of which the model gets only a summary, so that no output word can stand behind them.
    architecture: its name in ModelSpec, by the width of its first text encoder where that tells its versions apart.
    denoiser, first_stage: their folders. samplers: that suit it. guided: whether it takes a negative prompt.
    """

    title: str
    module: str
    backbone: str
    encoders: Mapping[str, str]
    architecture: str | Mapping[int, str]
    denoiser: str = "transformer"
    first_stage: str = "vae"
    samplers: tuple[Sampler, ...] = field(default=FLOW_SAMPLERS)
    summarised: tuple[str, ...] = ()
    guided: bool = True

    @property
    def word_keys(self) -> dict[str, str]:
        """Where a word can be -> its key in word files: the text encoders and, with OUT, the places behind them."""
        behind = {name + OUT: key + OUT for name, key in self.encoders.items() if name not in self.summarised}
        return {**self.encoders, **behind}

    @property
    def weights(self) -> tuple[str, ...]:
        """The folders with weights."""
        return (self.denoiser, self.first_stage, *self.encoders)

    def architecture_of(self, vectors: Mapping[str, np.ndarray]) -> str:
        """The name of the model of a word, text encoder -> (V, D); the family's title for a version that has no name."""
        if isinstance(self.architecture, str):
            return self.architecture
        return self.architecture.get(next(iter(vectors.values())).shape[1], self.title.lower().replace(" ", "-"))

    def encoders_named(self, keys: Sequence[str], place: WordPlace = "input") -> tuple[str, ...]:
        """The keys in the family's order, () for all that a word can have this place in.

        Raises ValueError for one that is none of them.
        """
        known = tuple(key for name, key in self.encoders.items() if place == "input" or name not in self.summarised)
        if unknown := [key for key in keys if key not in known]:
            what = "is no text encoder" if place == "input" else "is no text encoder that a word can stand behind,"
            raise ValueError(f"--encoders: {unknown[0]!r} {what} of {self.title}; choose from {', '.join(known)}")
        return () if set(keys) == set(known) else tuple(key for key in known if key in keys)

    def refuse_unsuited(self, sampler: str, min_snr: float = 0.0) -> None:
        """Raises ValueError for a sampler that does not suit this family, and for Min-SNR weights if it cannot use them."""
        if sampler not in self.samplers:
            raise ValueError(
                f"sampler {sampler!r} does not draw from {self.title}; choose {' or '.join(self.samplers)}, in a protocol's "
                "file or by --sampler"
            )
        if min_snr and self.samplers == FLOW_SAMPLERS:
            raise ValueError(f"--min-snr is {min_snr:g}: {self.title} is a rectified flow; leave it at 0")

    def refuse_other_noising(self, *, is_flow: bool) -> None:
        """Raises ValueError for the scheduler of a diffusion beside a denoiser that is a rectified flow."""
        if self.samplers == FLOW_SAMPLERS and not is_flow:
            raise ValueError(
                f"its scheduler is one of a diffusion, and {self.title} is a rectified flow: scheduler_config.json must be of a "
                "FlowMatchEulerDiscreteScheduler, or state use_flow_sigmas and flow_shift"
            )

    def refuse_negative(self, what: str) -> None:
        """Raises ValueError for a model that takes no negative prompt. what: asks for one."""
        if not self.guided:
            raise ValueError(f"{what}: {self.title} takes no negative prompt, as its guidance is distilled into it")


# By the class that model_index.json names.
FAMILIES = {
    "StableDiffusionPipeline": Family(
        "Stable Diffusion", "pipeline.models.diffusion.stable_diffusion", "StableDiffusion", {"text_encoder": "clip_l"},
        {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2"}, "unet", samplers=DIFFUSION_SAMPLERS,
    ),
    "StableDiffusionXLPipeline": Family(
        "Stable Diffusion XL", "pipeline.models.diffusion.stable_diffusion_xl", "StableDiffusionXL",
        {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}, "stable-diffusion-xl-v1-base", "unet", samplers=DIFFUSION_SAMPLERS,
    ),
    "LDMTextToImagePipeline": Family(
        "latent diffusion", "pipeline.models.diffusion.ldm", "LatentDiffusion", {"bert": "bert"}, "latent-diffusion", "unet",
        "vqvae", DIFFUSION_SAMPLERS,
    ),
    "PixArtAlphaPipeline": Family(
        "PixArt-alpha", "pipeline.models.diffusion.pixart", "PixArtAlpha", {"text_encoder": "t5"}, "pixart-alpha",
        samplers=DIFFUSION_SAMPLERS
    ),
    "PixArtSigmaPipeline": Family(
        "PixArt-Sigma", "pipeline.models.diffusion.pixart", "PixArtSigma", {"text_encoder": "t5"}, "pixart-sigma",
        samplers=DIFFUSION_SAMPLERS
    ),
    "StableDiffusion3Pipeline": Family(
        "Stable Diffusion 3", "pipeline.models.flow.stable_diffusion_3", "StableDiffusion3",
        {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5"}, "stable-diffusion-3",
    ),
    "FluxPipeline": Family(
        "Flux.1", "pipeline.models.flow.flux", "Flux", {"text_encoder": "clip_l", "text_encoder_2": "t5"}, "flux-1",
        summarised=("text_encoder",), guided=False,
    ),
    "ChromaPipeline": Family("Chroma", "pipeline.models.flow.flux", "Chroma", {"text_encoder": "t5"}, "chroma"),
    "SanaPipeline": Family("Sana", "pipeline.models.flow.sana", "Sana", {"text_encoder": "gemma"}, "sana"),
    "ZImagePipeline": Family("Z-Image", "pipeline.models.flow.z_image", "ZImage", {"text_encoder": "qwen"}, "z-image"),
    "QwenImagePipeline": Family("Qwen-Image", "pipeline.models.flow.qwen_image", "QwenImage", {"text_encoder": "qwen"},
                                "qwen-image"),
}  # fmt: skip


def family_of(name: str) -> Family:
    """The family whose pipeline class has that name. Raises ValueError."""
    if name not in FAMILIES:
        raise ValueError(
            f"the model is a {name or 'model of no stated class'}; this version knows {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name]
