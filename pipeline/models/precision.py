"""The precision in which a model computes on a device, and the loss scale that float16 needs."""

import math
from collections.abc import Collection

import torch

from pipeline.settings import ModelSettings

# Gradients at the model's output are then about a sixteenth of its errors. On the shipped model, latents of SDXL's size,
# 64 times more or less changes nothing: the cosine to float32's gradient stays above 0.9999.
BELOW_ONE = 16


def dtypes_on(device: torch.device, settings: ModelSettings) -> tuple[torch.dtype, torch.dtype]:
    """(dtype of the denoiser, dtype of the text encoders). Raises ValueError for a dtype that the device does not have."""
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    names = settings.dtypes_on(device.type, has_bfloat16)
    if "bfloat16" in names and not has_bfloat16:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16, which came with Ampere; take --dtype float16 or float32"
        )
    unet, text = (getattr(torch, name) for name in names)
    return unet, text


def compute_float32_in_full() -> None:
    """Switches TF32 off. It keeps 10 of float32's 23 mantissa bits, and torch would use it for convolutions on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def loss_scale(dtypes: Collection[torch.dtype], values: int) -> float:
    """The factor for a mean of that many squared errors so that its gradient does not underflow in any of the dtypes: a power of 2.

    It is 1 except for float16, whose smallest number, 6e-8, is as large as the gradients of a large picture's mean
    (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2).
    """
    return 2.0 ** round(math.log2(values / BELOW_ONE)) if torch.float16 in dtypes else 1.0
