"""Faster training passes through the frozen denoiser at one fixed batch size: compiled blocks, or CUDA graphs.

Smaller batches are padded, so that a word that enters or leaves changes no shape and compiles nothing. The loss does not see
the padding, so its gradient is that of the batch alone. Passes without a gradient run as before.
"""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub.constants import HF_HOME
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from pipeline.models.base import Conditioning
from pipeline.models.device_memory import full_memory
from pipeline.settings import FastMode

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
Inputs = tuple[Tensor, Tensor, Conditioning]  # of a `Predict`
# Cosine of the gradients with and without. In half precision two orders of the same sums are further apart.
ALIKE, ALIKE_IN_HALF = 0.999, 0.99
CAPTURES = "cuda"  # type of the devices that record graphs


class NotFasterError(RuntimeError):
    """The denoiser cannot be compiled or captured here, or computes something else then. It is as it was before."""


class FastPasses:
    """Predictions for training, for at most `batch` pictures.

    batch: of larger ones, each is computed as before.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        predict: Predict,
        mode: FastMode,
        example: Inputs,
        other: Inputs,
    ) -> None:
        """Compiles or captures with the example, and compares the gradient of the other inputs with that of `predict`: a graph that
        holds on to a value of the example is found out.

        example, other: full batches. The conditioning requires no gradient.
        Raises NotFasterError, and torch.OutOfMemoryError.
        """
        self.mode, self.batch = mode, len(example[0])
        self._denoiser, self._plain, self._fast = denoiser, predict, predict
        expected = _gradient(predict, *other)
        try:
            with full_memory():
                if mode == "graph":
                    self._fast = _captured(predict, *example)
                else:
                    _compile(denoiser, self.batch)
                gradient = _gradient(self._fast, *other)
        except BaseException as error:
            self.undo()
            if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, Exception):
                raise
            raise NotFasterError(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}") from error
        alike = float(cosine_similarity(expected.flatten().double(), gradient.flatten().double(), dim=0))
        in_half = next(denoiser.parameters()).dtype in (torch.float16, torch.bfloat16)
        if not alike >= (ALIKE_IN_HALF if in_half else ALIKE):
            self.undo()
            raise NotFasterError(f"its gradient has a cosine of {alike:.4f} to the one computed as usual")

    def __call__(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        missing = self.batch - len(noisy)
        if missing < 0:
            return self._plain(noisy, times, conditioning)
        pad = functools.partial(_padded, missing=missing)
        return self._fast(pad(noisy), pad(times), _each(conditioning, pad))[: len(noisy)]

    def undo(self) -> None:
        """Gives the memory of graphs and compiled code back; later calls are computed as before, to the last bit."""
        self._fast = self._plain
        for block in _blocks(self._denoiser):
            vars(block).pop("forward", None)
        if self.mode == "blocks":
            torch.compiler.reset()  # which also counts as never compiled: torch gives up on code that it has compiled eight times
            if isinstance(self._denoiser, UNet2DConditionModel):
                self._denoiser.to(memory_format=torch.contiguous_format)


def keep_compiled_code() -> None:
    """Keeps compiled code beside the downloaded models, for later runs and other workers of the machine."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(HF_HOME) / "wordmint-compiled"))


def _blocks(denoiser: nn.Module) -> Iterator[nn.Module]:
    """Of a U-Net its stages, of a transformer its layers: what stands in a list of modules, and what is between two lists."""
    for name, child in denoiser.named_children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif name == "mid_block":
            yield child


def _compile(denoiser: nn.Module, batch: int) -> None:
    blocks = list(_blocks(denoiser))
    if not blocks:
        raise ValueError(f"{type(denoiser).__name__} has no blocks to compile")
    if isinstance(denoiser, UNet2DConditionModel):
        denoiser.to(memory_format=torch.channels_last)
    for block in blocks:
        block.forward = _for_training(block.forward, batch)


def _for_training(plain: Callable[..., Any], batch: int) -> Callable[..., Any]:
    """Compiled for batches of that size with a gradient; plain for all others, such as those of a sampler's thread."""
    compiled = torch.compile(plain, dynamic=False)

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (compiled if torch.is_grad_enabled() and len(hidden) == batch else plain)(*args, **kwargs)

    return forward


def _captured(predict: Predict, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Predict:
    """CUDA graphs of a pass and of its gradient."""
    if noisy.device.type != CAPTURES:
        raise ValueError("CUDA graphs need a GPU")
    names = [field.name for field in fields(conditioning) if getattr(conditioning, field.name) is not None]

    def on_tensors(noisy: Tensor, times: Tensor, *rest: Tensor) -> Tensor:
        return predict(noisy, times, Conditioning(**dict[str, Tensor](zip(names, rest, strict=True))))

    example = [getattr(_with_gradient(conditioning), name) for name in names]
    # It captures a pass backwards only of what has a gradient. The inputs become the graph's own, and are written to.
    with torch.enable_grad():
        graphed: Any = torch.cuda.make_graphed_callables(
            on_tensors, (noisy.clone(), times.clone(), *example), allow_unused_input=True
        )

    def replayed(noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        result: Tensor = graphed(noisy, times, *(getattr(conditioning, name) for name in names))
        return result

    return replayed


def _gradient(predict: Predict, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
    """Of the mean square of the prediction, by all of the conditioning: one row of numbers."""
    conditioning = _with_gradient(conditioning)
    parts = [getattr(conditioning, field.name) for field in fields(conditioning)]
    with torch.enable_grad():
        loss = predict(noisy, times, conditioning).float().square().mean()
        learned = [part for part in parts if part is not None and part.requires_grad]
        gradients = torch.autograd.grad(loss, learned, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _with_gradient(conditioning: Conditioning) -> Conditioning:
    return _each(conditioning, lambda value: value.detach().clone().requires_grad_(value.is_floating_point()))


def _each(conditioning: Conditioning, change: Callable[[Tensor], Tensor]) -> Conditioning:
    values = {field.name: getattr(conditioning, field.name) for field in fields(conditioning)}
    return replace(conditioning, **{name: change(value) for name, value in values.items() if value is not None})


def _padded(value: Tensor, missing: int) -> Tensor:
    """With its last row repeated."""
    if not missing:
        return value
    return torch.cat([value, value[-1:].detach().expand(missing, *value.shape[1:])])
