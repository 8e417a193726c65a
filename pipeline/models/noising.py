"""How noise is added to latents, what the model predicts of them, and which samplers draw from it.

`Diffusion` is the variance-preserving process of Ho et al. 2020; `RectifiedFlow` the straight path of Liu et al. 2022, as
Stable Diffusion 3 (Esser et al. 2024) and its successors use it. Both are read from the model's own scheduler/ folder.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from pipeline.models.configuration import refuse_over
from pipeline.settings import FlowTimes

# Entries of a flow's scheduler. The last two are logarithms of a shift.
NUMBERS = ("num_train_timesteps", "base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
MAY_BE_NEGATIVE = NUMBERS[-2:]
MOST_TIMES = 100_000  # published models have a thousand
SMALLEST = 1e-4  # sigma of a flow: at 0 there is nothing to predict, and the ratio of signal to noise is infinite


class Noising(ABC):
    """A noising process. `times` are what the denoiser is given: int64 for a diffusion, float32 for a flow, each (B,)."""

    predicts_velocity: bool

    @abstractmethod
    def times(self, places: Tensor, parts: int, tokens: int, flow_times: FlowTimes) -> Tensor:
        """Times (B,) for positions float64 (B,) in [0, parts), spread evenly over the model's times.

        tokens: patches of a picture, by which some flows shift their times. flow_times: how a flow weighs its times.
        """

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Noisy latents (B, C, h, w)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the denoiser should predict, (B, C, h, w)."""

    @abstractmethod
    def signal_to_noise(self, times: Tensor) -> Tensor:
        """Ratio of variances, float32 (B,)."""

    @abstractmethod
    def scheduler(self, sampler: str, steps: int, tokens: int, device: torch.device) -> Any:
        """A fresh diffusers scheduler with its timesteps set. Raises ValueError for a sampler that does not suit."""


class Diffusion(Noising):
    """Ho et al. 2020, with the model's own betas; the model predicts the noise, or the velocity of Salimans and Ho 2022."""

    SAMPLERS: ClassVar = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError."""
        if "beta_schedule" not in config:  # the library would make up a linear one
            raise ValueError(f"its scheduler, {config.get('_class_name')}, has no beta_schedule")
        self._process = DDPMScheduler.from_config(config)
        self._kept = self._process.alphas_cumprod  # on the CPU, where the process moves its own to the latents' device
        predicts = self._process.config.prediction_type
        if predicts not in ("epsilon", "v_prediction"):
            raise ValueError(f"it predicts {predicts!r}, not epsilon or v_prediction")
        self.predicts_velocity = predicts == "v_prediction"
        self._count = int(self._process.config.num_train_timesteps)

    def times(self, places: Tensor, parts: int, tokens: int, flow_times: FlowTimes) -> Tensor:  # noqa: ARG002 - of flows
        return (places * (self._count / parts)).long().clamp_(max=self._count - 1)

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return self._process.add_noise(latents, noise, times)

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return self._process.get_velocity(latents, noise, times) if self.predicts_velocity else noise

    def signal_to_noise(self, times: Tensor) -> Tensor:
        kept = self._kept.to(times.device)[times].float()
        return kept / (1 - kept)

    def scheduler(self, sampler: str, steps: int, tokens: int, device: torch.device) -> Any:  # noqa: ARG002 - of flows
        made = _chosen(self.SAMPLERS, sampler)
        # Latents go beyond [-1, 1]. DDIM clips them there unless its config says otherwise, and not every model's does.
        unclipped = {"clip_sample": False} if sampler == "ddim" else {}
        scheduler = made.from_config(self._process.config, **unclipped)
        scheduler.set_timesteps(steps, device=device)
        return scheduler


class RectifiedFlow(Noising):
    """noisy = (1 - sigma) latents + sigma noise; the model predicts noise - latents. Its time is sigma x 1,000.

    Times are shifted towards noise as the model's scheduler states: by a constant, or by the number of a picture's patches.
    """

    SAMPLERS: ClassVar = ("dpm++", "euler")
    predicts_velocity = True

    def __init__(self, config: Mapping[str, Any], even_sigmas: bool) -> None:
        """even_sigmas: the sampler's sigmas are 1, (N-1)/N, ... 1/N, as most families draw; else diffusers' default.

        Raises ValueError for a configuration that states no shift.
        """
        stated = "flow_shift" if "flow_shift" in config else "shift"
        if stated not in config and not config.get("use_dynamic_shifting"):
            raise ValueError(
                f"its scheduler, {config.get('_class_name')}, is a rectified flow without a shift: scheduler_config.json "
                "must state shift, flow_shift or use_dynamic_shifting"
            )
        for name in sorted({stated, *NUMBERS} & set(config)):
            value, least = config[name], -math.inf if name in MAY_BE_NEGATIVE else 0
            if not isinstance(value, int | float) or isinstance(value, bool) or not least < value < math.inf:
                above = "" if name in MAY_BE_NEGATIVE else " above 0"
                raise ValueError(f"scheduler_config.json states {name} {value!r}; it must be a number{above}")
        if config.get("base_image_seq_len", 256) == config.get("max_image_seq_len", 4096):
            raise ValueError(
                "scheduler_config.json states base_image_seq_len equal to max_image_seq_len; they must differ"
            )
        if (kind := config.get("time_shift_type", "exponential")) not in ("exponential", "linear"):
            raise ValueError(
                f"scheduler_config.json states time_shift_type {kind!r}; it must be 'exponential' or 'linear'"
            )
        self._config = dict(config)
        self._scale = float(config.get("num_train_timesteps", 1000))
        self._constant = float(config.get(stated, 1.0))
        self._even_sigmas = even_sigmas

    def shift(self, tokens: int) -> float:
        """s of sigma' = s sigma / (1 + (s - 1) sigma), Esser et al. 2024, equation 23."""
        if not self._config.get("use_dynamic_shifting"):
            return self._constant
        mu = self.mu(tokens)
        return math.exp(mu) if self._config.get("time_shift_type", "exponential") == "exponential" else mu

    def mu(self, tokens: int) -> float:
        """Linear in the number of patches, between the two that the configuration states."""
        low, high = self._config.get("base_image_seq_len", 256), self._config.get("max_image_seq_len", 4096)
        first, last = self._config.get("base_shift", 0.5), self._config.get("max_shift", 1.15)
        return float(first + (last - first) * (tokens - low) / (high - low))

    def times(self, places: Tensor, parts: int, tokens: int, flow_times: FlowTimes) -> Tensor:
        evenly = (places / parts).clamp(SMALLEST, 1 - SMALLEST)
        # Esser et al. 2024, section 3.1: the logit of sigma is a standard normal number.
        sigma = torch.sigmoid(torch.special.ndtri(evenly)) if flow_times == "logit_normal" else evenly
        shift = self.shift(tokens)
        return (self._scale * shift * sigma / (1 + (shift - 1) * sigma)).float()

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        sigma = self._sigma(times).to(latents.dtype)[:, None, None, None]
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:  # noqa: ARG002 - the same at all times
        return noise - latents

    def signal_to_noise(self, times: Tensor) -> Tensor:
        sigma = self._sigma(times)
        return ((1 - sigma) / sigma).square()

    def scheduler(self, sampler: str, steps: int, tokens: int, device: torch.device) -> Any:
        if sampler not in self.SAMPLERS:
            raise ValueError(f"sampler {sampler!r} does not suit a rectified flow; choose {' or '.join(self.SAMPLERS)}")
        config, extra = dict(self._config), dict[str, Any]()
        if sampler == "dpm++":
            flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": self.shift(tokens)}
            made = DPMSolverMultistepScheduler.from_config(_of_class(config, DPMSolverMultistepScheduler) | flow)
        else:
            own = _of_class(config, FlowMatchEulerDiscreteScheduler) | {"shift": self._constant}
            made = FlowMatchEulerDiscreteScheduler.from_config(own)
            if config.get("use_dynamic_shifting"):
                extra["mu"] = self.mu(tokens)
            if self._even_sigmas:
                extra["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        made.set_timesteps(steps, device=device, **extra)
        return made

    def _sigma(self, times: Tensor) -> Tensor:
        return times / self._scale


def read_noising(folder: Path, even_sigmas: bool = True) -> Noising:
    """The process the model was trained with, whichever sampler its scheduler/ is of. Raises ValueError."""
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    refuse_over(config.get("num_train_timesteps", 1000), MOST_TIMES, "a noise schedule")
    is_flow = str(config.get("_class_name", "")).startswith("FlowMatch") or config.get("use_flow_sigmas")
    return RectifiedFlow(config, even_sigmas) if is_flow else Diffusion(config)


def _of_class(config: Mapping[str, Any], scheduler: type[Any]) -> dict[str, Any]:
    """The model's own settings of that scheduler; where the model's is another, only what means the same in both."""
    if config.get("_class_name") == scheduler.__name__:
        return dict(config)
    return {"num_train_timesteps": config.get("num_train_timesteps", 1000)}


def _chosen(samplers: Mapping[str, Any], sampler: str) -> Any:
    if sampler not in samplers:
        raise ValueError(f"sampler {sampler!r} is not known; choose {', '.join(sorted(samplers))}")
    return samplers[sampler]
