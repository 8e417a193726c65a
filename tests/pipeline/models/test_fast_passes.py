"""fast_passes.py: padded, compiled training passes give the gradients of the plain ones, and compile once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cosine_similarity

from pipeline.models import fast_passes
from pipeline.models.base import Backbone, Conditioning
from pipeline.models.fast_passes import NotFasterError
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training import inversion
from pipeline.training.inversion import Slot, new_slot, train_step
from tests.recorded_graphs import record_graphs
from tests.tiny_model import PIXELS
from tests.tiny_transformers import FAMILIES, save_tiny

SETTINGS = InversionSettings(steps=8, early_stop="off", batch_size=2, learning_rate=5e-3)
PICTURES = np.random.default_rng(1).integers(0, 256, (3, PIXELS, PIXELS, 3), np.uint8)
COME_AND_GO = (2, 1, 4, 3)  # slots of each step


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def slots_of(backbone: Backbone, count: int) -> list[Slot]:
    concepts = (Concept(name=f"c{n}", images=(), placeholder=f"<c{n}>", initializer="cat") for n in range(count))
    return [new_slot(concept, PICTURES, backbone, SETTINGS) for concept in concepts]


def gradients(backbone: Backbone) -> list[Tensor]:
    """Of a first step of as many slots as COME_AND_GO says. Later steps of a model with random weights multiply rounding."""
    found = []
    for count in COME_AND_GO:
        slots = slots_of(backbone, count)
        train_step(backbone, slots)
        found += [mean for slot in slots for mean in slot.means.values()]
    return found


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    """Kernels for another batch or memory layout round otherwise."""
    for mine, other in zip(found, expected, strict=True):
        assert cosine_similarity(mine.flatten().double(), other.flatten().double(), dim=0) > 0.999999
        torch.testing.assert_close(mine.norm(), other.norm(), rtol=1e-3, atol=0)


def without_a_compiler(monkeypatch: pytest.MonkeyPatch, made: Callable[..., Any] = lambda plain, **_: plain) -> None:
    monkeypatch.setattr(torch, "compile", made)


def test_padded_batches_give_the_gradients_of_unpadded_ones(any_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_a_compiler(monkeypatch)
    usual = load_backbone(str(any_model))
    expected = gradients(usual)
    sizes: list[int] = []
    padded = load_backbone(str(any_model))
    padded.make_faster("blocks", 8, PIXELS)
    original = padded.predict
    fast = padded._fast  # type: ignore[attr-defined]

    def seen(noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        sizes.append(len(noisy))
        return original(noisy, times, conditioning)

    monkeypatch.setattr(fast, "_fast", seen)
    assert_alike(gradients(padded), expected)
    assert sizes == [8] * len(COME_AND_GO)


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_transformer_has_blocks_to_compile(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def note(plain: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        compiled.append(type(plain.__self__).__name__)  # type: ignore[attr-defined]
        return plain

    without_a_compiler(monkeypatch, note)
    backbone = load_backbone(str(save_tiny(family, tmp_path / "model")))
    backbone.make_faster("blocks", 2, backbone.resolution)
    assert compiled
    assert backbone.make_usual()
    assert not backbone.make_usual()


# torch's own compiler looks at the .grad of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "compiler", ["eager", pytest.param("inductor", marks=pytest.mark.long)]
)  # inductor takes minutes
def test_compiled_blocks_give_the_same_gradients_and_compile_nothing_while_slots_come_and_go(
    compiler: str, epsilon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = CompileCounterWithBackend(compiler)
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda plain, **options: compile(plain, backend=counter, **options))
    expected = gradients(load_backbone(str(epsilon_model)))
    backbone = load_backbone(str(epsilon_model))
    digest = backbone.weights_digest()
    backbone.make_faster("blocks", 8, PIXELS)
    before = counter.frame_count
    assert before > 0
    with ThreadPoolExecutor(1) as model_thread:  # a worker compiles on one thread and trains on another
        found = model_thread.submit(gradients, backbone).result()
    assert counter.frame_count == before
    assert_alike(found, expected)
    assert backbone.weights_digest() == digest


# torch's own compiler looks at the .grad of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_every_batch_size_that_is_tried_is_compiled(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches sizes that torch no longer compiles, having compiled others before, and that are measured as if they were."""
    counter = CompileCounterWithBackend("eager")
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda plain, **options: compile(plain, backend=counter, **options))
    backbone = load_backbone(str(epsilon_model))
    frames = []
    with torch._dynamo.config.patch(recompile_limit=2):
        for batch in (1, 2, 3, 4):
            before = counter.frame_count
            backbone.make_faster("blocks", batch, PIXELS)
            frames.append(counter.frame_count - before)
    backbone.make_usual()
    assert frames[0] > 0
    assert frames == frames[:1] * 4


def test_a_block_that_computes_something_else_is_not_used(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(plain: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            result = plain(*args, **kwargs)
            return -result if isinstance(result, Tensor) else (-result[0], *result[1:])

        return forward

    without_a_compiler(monkeypatch, wrong)
    backbone = load_backbone(str(epsilon_model))
    with pytest.raises(NotFasterError, match=r"its gradient has a cosine of -?0\.\d+ to the one computed as usual"):
        backbone.make_faster("blocks", 2, PIXELS)
    assert_alike(gradients(backbone), gradients(load_backbone(str(epsilon_model))))


def test_a_machine_without_a_compiler_is_said(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plain: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

        return forward

    without_a_compiler(monkeypatch, broken)
    backbone = load_backbone(str(epsilon_model))
    with pytest.raises(NotFasterError, match=r"^RuntimeError: Failed to find C compiler\.$"):
        backbone.make_faster("blocks", 2, PIXELS)
    assert not backbone.make_usual()


@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_captured_graphs_give_the_gradients_of_plain_passes_while_slots_come_and_go(
    checkpointed: bool, any_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a capture without a pass backwards, and inputs that are not written to the graph's own memory."""
    record_graphs(monkeypatch)
    usual, graphed = load_backbone(str(any_model)), load_backbone(str(any_model))
    expected = gradients(usual)
    graphed.checkpoint_gradients(checkpointed)
    graphed.make_faster("graph", 8, PIXELS)
    monkeypatch.setattr(graphed, "predict", None)  # a replay runs no Python of the model
    monkeypatch.setattr(inversion, "validate", lambda *_: None)
    assert_alike(gradients(graphed), expected)


def test_a_graph_that_holds_on_to_the_example_is_not_used(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a value that Python read while the graph was captured, and that is the example's ever after."""
    record_graphs(monkeypatch)
    backbone = load_backbone(str(epsilon_model))
    original, held = backbone.predict, list[Tensor]()

    def predict(noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        if len(held) < 2:  # as it should be, and before the capture
            held.append(times.clone())
        return original(noisy, held[-1], conditioning)

    monkeypatch.setattr(backbone, "predict", predict)
    with pytest.raises(NotFasterError, match="its gradient has a cosine of"):
        backbone.make_faster("graph", 2, PIXELS)
    assert not backbone.make_usual()


def test_a_pass_that_reads_a_value_is_not_captured(epsilon_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_graphs(monkeypatch)
    backbone = load_backbone(str(epsilon_model))
    original = backbone.predict

    def predict(noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        return original(noisy, times, conditioning) * times.max().item()

    monkeypatch.setattr(backbone, "predict", predict)
    with pytest.raises(NotFasterError, match="not permitted when stream is capturing"):
        backbone.make_faster("graph", 2, PIXELS)


def test_a_model_that_was_compiled_is_afterwards_the_same_to_the_last_bit(
    epsilon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches weights that stay in another memory layout, whose kernels round otherwise."""
    without_a_compiler(monkeypatch)
    backbone = load_backbone(str(epsilon_model))
    expected = gradients(backbone)
    backbone.make_faster("blocks", 8, PIXELS)
    backbone.make_usual()
    assert all(torch.equal(found, before) for found, before in zip(gradients(backbone), expected, strict=True))
    assert all(each.is_contiguous() for each in backbone.denoiser.parameters())  # type: ignore[attr-defined]


def test_graphs_without_a_gpu_are_refused(epsilon_model: Path) -> None:
    with pytest.raises(NotFasterError, match="CUDA graphs need a GPU"):
        load_backbone(str(epsilon_model)).make_faster("graph", 2, PIXELS)


def test_a_batch_larger_than_the_fixed_one_is_computed_as_usual() -> None:
    passes = object.__new__(fast_passes.FastPasses)
    passes.batch = 2
    passes._plain, passes._fast = (lambda noisy, *_: noisy + 1), (lambda noisy, *_: noisy - 1)
    noisy, times, conditioning = torch.zeros(3, 1), torch.zeros(3), Conditioning(torch.zeros(3, 1, 1))
    assert passes(noisy, times, conditioning).tolist() == [[1.0]] * 3
    two = replace(conditioning, context=torch.zeros(2, 1, 1))
    assert passes(noisy[:2], times[:2], two).tolist() == [[-1.0]] * 2
