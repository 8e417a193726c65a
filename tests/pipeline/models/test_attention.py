"""All ways of computing attention are the same attention, and each has its part."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor

from pipeline.models.attention import FEW, AttentionByKeys, mask_unseen
from pipeline.models.load import load_backbone
from tests.tiny_transformers import save_tiny


@pytest.mark.parametrize("tokens", [16, FEW + 8])
@pytest.mark.parametrize("keys", [None, 7, FEW + 8])
def test_attention_and_its_gradient_are_those_of_plain_products(tokens: int, keys: int | None) -> None:
    """Catches a kernel that leaves out a scale, a bias or the residual."""
    generator = torch.Generator().manual_seed(0)
    attention = Attention(query_dim=24, cross_attention_dim=None if keys is None else 10, heads=3, dim_head=8)
    hidden = torch.randn(2, tokens, 24, generator=generator, requires_grad=True)
    told = None if keys is None else torch.randn(2, keys, 10, generator=generator)
    found = []
    for processor in (AttentionByKeys(), AttnProcessor()):
        attention.set_processor(processor)
        said = attention(hidden, encoder_hidden_states=told)
        (gradient,) = torch.autograd.grad(said.square().sum(), hidden)
        found.append((said.detach(), gradient))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("keys", "fused"), [(None, True), (7, False), (FEW, False), (FEW + 1, True)])
def test_many_keys_go_to_the_fused_kernel_and_few_do_not(keys: int | None, fused: bool) -> None:
    """Catches gigabytes of attention weights at the published resolution, and a third of the speed lost at the shipped one."""
    attention = Attention(query_dim=8, cross_attention_dim=None if keys is None else 8, heads=1, dim_head=8)
    attention.set_processor(AttentionByKeys())
    told = None if keys is None else torch.randn(1, keys, 8)
    with torch.profiler.profile() as profiled:
        attention(torch.randn(1, FEW + 1, 8), encoder_hidden_states=told)
    assert any("scaled_dot_product_attention" in event.key for event in profiled.key_averages()) == fused


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["pixart", "chroma", "z_image", "qwen_image"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_mask_that_nobody_looks_at_hides_the_same_padding(family: str, padded: bool, tmp_path: Path) -> None:
    """As on a GPU, where a text encoder has torch's fused attention. Catches a mask that is lost, or hides the future only."""
    backbone: Any = load_backbone(str(save_tiny(family, tmp_path / "model")))
    (encoder,) = backbone.text.values()
    ids = backbone.tokenise(["a cat", "a red car at night"], {}).ids
    if not padded:
        ids = torch.where(ids == encoder.pad, encoder.text_ids("a")[0], ids)
    mask = encoder.mask(ids)
    assert bool(mask.all()) is not padded
    encoder.module.double()  # kernels differ by more than rounding in single precision on some processors
    with torch.no_grad():
        mask_unseen(encoder.module)
        found = encoder.read(ids, ids).states[mask]
        for known in ("sdpa", "eager"):
            encoder.module.set_attn_implementation(known)
            torch.testing.assert_close(found, encoder.read(ids, ids).states[mask], rtol=1e-4, atol=1e-5)
