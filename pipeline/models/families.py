"""The families of models: which folders hold their weights, and which class draws with them. Needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """title: what people call it. module, backbone: the class that loads it. weights: the folders with its weights."""

    title: str
    module: str
    backbone: str
    weights: tuple[str, ...]


# By the class that model_index.json names.
FAMILIES = {
    "StableDiffusionPipeline": Family(
        "Stable Diffusion", "pipeline.models.stable_diffusion", "StableDiffusion", ("unet", "vae", "text_encoder")
    ),
    "StableDiffusionXLPipeline": Family(
        "Stable Diffusion XL", "pipeline.models.stable_diffusion_xl", "StableDiffusionXL",
        ("unet", "vae", "text_encoder", "text_encoder_2"),
    ),
    "LDMTextToImagePipeline": Family(
        "latent diffusion", "pipeline.models.ldm", "LatentDiffusion", ("unet", "vqvae", "bert")
    ),
}  # fmt: skip
