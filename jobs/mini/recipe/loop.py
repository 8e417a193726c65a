"""The training loop all three stages share: AdamW, bf16 autocast, an average of the weights, checkpoints on disk.

A stage provides its modules and the loss of a step. Every random draw comes from (seed, step), so a resumed stage gives the same
result as an uninterrupted one.
"""

import functools
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up, a plateau, then a linear descent to zero over the last `descent` of the steps."""

    steps: int
    peak: float
    warmup: int = 200
    descent: float = 0.4

    def rate(self, step: int) -> float:
        left = (self.steps - step) / (self.descent * self.steps)
        return self.peak * min(1.0, (step + 1) / self.warmup, left)


AVERAGE_EVERY = 10
SAY = functools.partial(print, flush=True)


def train(
    modules: nn.ModuleDict,
    loss_at: Callable[[int], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    *,
    average: float = 0.98,
    checkpoint_seconds: float = 120,
    device: str = "cpu",
    say: Callable[[str], None] = SAY,
) -> nn.ModuleDict:
    """Trains until `schedule.steps`, from `checkpoint` if there is one, and leaves the averaged weights in `modules`.

    loss_at: step -> scalar loss. device: where the modules are. average: decay of the weight average, applied every 10 steps.
    Raises FloatingPointError at a loss that is not finite.
    """
    parameters = {name: value for name, value in modules.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=schedule.peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    averaged = {name: value.detach().clone() for name, value in parameters.items()}
    start, spent = _resume(checkpoint, parameters, averaged, optimiser)
    began = saved = said = time.monotonic()
    recent, step = 0.0, start
    for step in range(start, schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        # At these sizes the fused attention kernel is up to three times slower on a CPU than the plain matrix products.
        with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
            with torch.autocast(device, torch.bfloat16):
                loss = loss_at(step)
            optimiser.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        if step % AVERAGE_EVERY == 0:
            now_at = loss.item()
            if not math.isfinite(now_at):
                raise FloatingPointError(
                    f"the loss of step {step} is not a number; start again from an earlier {checkpoint}"
                )
            recent = now_at if step == start else 0.9 * recent + 0.1 * now_at
            decay = min(average, (1 + step / AVERAGE_EVERY) / (10 + step / AVERAGE_EVERY))
            torch._foreach_lerp_(list(averaged.values()), [p.detach() for p in parameters.values()], 1 - decay)
            now = time.monotonic()
            if now - said > 30:
                said = now
                say(f"step {step}/{schedule.steps} loss {recent:.4f} {(now - began) / (step + 1 - start):.3f} s/step")
            if now - saved > checkpoint_seconds:
                saved = now
                _save(checkpoint, parameters, averaged, optimiser, step + 1, spent + now - began)
    if start < schedule.steps:
        _save(checkpoint, parameters, averaged, optimiser, schedule.steps, spent + time.monotonic() - began)
    say(f"{schedule.steps} steps done in {spent + time.monotonic() - began:.0f} s")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(averaged[name])
    return modules


def _save(
    path: Path,
    parameters: dict[str, nn.Parameter],
    averaged: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    tensors = {f"parameter/{name}": value.detach() for name, value in parameters.items()}
    tensors |= {f"averaged/{name}": value for name, value in averaged.items()}
    for name, value in parameters.items():
        state = optimiser.state[value]
        tensors |= {f"first/{name}": state["exp_avg"], f"second/{name}": state["exp_avg_sq"]}
    partial = path.with_suffix(".partial")
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        partial,
        {"step": str(step), "seconds": str(seconds)},
    )
    partial.replace(path)


def _resume(
    path: Path, parameters: dict[str, nn.Parameter], averaged: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as opened:
        said = opened.metadata()
    step, tensors = int(said["step"]), load_file(path)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"parameter/{name}"])
            averaged[name].copy_(tensors[f"averaged/{name}"])
            optimiser.state[value] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"first/{name}"].clone(),
                "exp_avg_sq": tensors[f"second/{name}"].clone(),
            }
    return step, float(said["seconds"])
