"""A norm read off its outputs is the norm, at the scales it was frozen at; what is no such norm is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from circuits.errors import ModelError, UndefinedError
from circuits.linalg import freeze_norm


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("kind", ["layer", "rms", "plain layer"])
def test_it_is_affine_and_adds_up(size: int, kind: str):
    norm = {
        "layer": nn.LayerNorm(size, eps=1e-2), "rms": nn.RMSNorm(size, eps=1e-2),
        "plain layer": nn.LayerNorm(size, elementwise_affine=False),
    }[kind]  # fmt: skip
    for i, parameter in enumerate(norm.parameters()):
        nn.init.normal_(parameter, 1.0 - i, 0.5)
    x, parts = vectors(3, 5, size), vectors(3, 5, 4, size, seed=1)
    x = x + 2
    frozen = freeze_norm(norm, x)
    with torch.no_grad():
        assert torch.allclose(frozen.linear(x) + frozen.bias, norm(x).double(), atol=2e-6)
    assert frozen.centred == (kind != "rms")
    whole = torch.cat([parts, (x - parts.sum(2))[:, :, None]], 2)
    assert torch.allclose(frozen.linear(whole).sum(2), frozen.linear(x), atol=1e-6)
    g = vectors(size, seed=2).double()
    assert torch.allclose(frozen.folded(x) @ g, x.double() @ frozen.transposed(g), atol=1e-6)


def test_what_has_no_scale_is_refused():
    x = vectors(3, 8)
    x[1] = 0
    with pytest.raises(UndefinedError, match="no scale"):
        freeze_norm(nn.RMSNorm(8), x)


@pytest.mark.parametrize("norm", [nn.Softmax(-1), nn.Tanh(), nn.GroupNorm(2, 8)])
def test_what_is_no_norm_is_refused(norm: nn.Module):
    with pytest.raises((ModelError, UndefinedError), match="norm"):
        freeze_norm(norm, vectors(3, 8) * torch.arange(1, 9))
