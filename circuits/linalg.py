"""Projections and planes; tensors only."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import UndefinedError


def component(
    vectors: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "*batch"]:
    """Signed length along a direction: ⟨x, v⟩/‖v‖. Raises UndefinedError for a direction of norm zero."""
    norm = direction.norm()
    if not norm > 0:
        raise UndefinedError("the component along a direction of norm zero does not exist")
    return vectors @ (direction / norm)


def cosine(a: Float[Tensor, "*batch d_model"], b: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """Cosine similarity; NaN (not 0) where either norm is zero, because there it does not exist."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def random_directions(n: int, d_model: int, *, seed: int) -> Float[Tensor, "direction d_model"]:
    """Unit vectors uniform on the sphere: the null for every claim about one direction."""
    draws = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return draws / draws.norm(dim=-1, keepdim=True)
