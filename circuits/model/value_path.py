"""What a head moves, as matrices: pre-norm, W_V, W_O and post-norm of one block.

    v[p]        = pre(resid_pre[p]) W_V + b_V
    z_h[q]      = Σ_p A_h[q, p] v_{kv(h)}[p]
    attn_out[q] = post(Σ_h z_h[q] W_O^h + b_O)

Query head h reads key-value head h // (n_heads / n_kv_heads). Fused projections are cut by the same views that the sites
`q`, `k` and `v` use. Matrices are double precision, on the CPU, nothing folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.errors import SiteError
from circuits.linalg import FrozenNorm, freeze_norm
from circuits.model.model import Model
from circuits.model.parts import Place
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class OutputPath:
    """From the z of every head to what is added to the residual stream."""

    w_o: Float[Tensor, "head d_head d_model"]
    b_o: Float[Tensor, " d_model"]
    post: nn.Module | None
    """None where what the heads write is added as it is."""

    def projected(self, z: Float[Tensor, "*batch head d_head"]) -> Float[Tensor, "*batch d_model"]:
        """What enters the post-norm: the heads' products and the bias."""
        return torch.einsum("...he,hed->...d", z.double().cpu(), self.w_o) + self.b_o

    def frozen(self, z: Float[Tensor, "*batch head d_head"]) -> FrozenNorm:
        """The post-norm at the scales that these z give it; the identity where there is none."""
        return frozen(self.post, self.projected(z).to(z))

    def added(
        self, z: Float[Tensor, "*batch head d_head"]
    ) -> tuple[Float[Tensor, "*batch head d_model"], Float[Tensor, "*batch d_model"]]:
        """What every head adds to the residual stream, and what the biases do; together what attention adds."""
        by_head = torch.einsum("...he,hed->...hd", z.double().cpu(), self.w_o)
        norm = self.frozen(z)
        return norm.linear(by_head), norm.linear(self.b_o.expand(*z.shape[:-2], -1)) + norm.bias


@final
@dataclass(frozen=True, eq=False)
class ValuePath:
    """From the residual stream to the values, by query head."""

    w_v: Float[Tensor, "head d_model d_head"]
    b_v: Float[Tensor, "head d_head"]
    pre: nn.Module | None
    """None where the projections read the residual stream as it is (OLMo 2)."""

    def frozen(self, resid: Float[Tensor, "*batch d_model"]) -> FrozenNorm:
        """The pre-norm at the scales of these residuals."""
        return frozen(self.pre, resid)


def frozen(norm: nn.Module | None, at: Float[Tensor, "*batch d_model"]) -> FrozenNorm:
    """`freeze_norm`, or the identity where there is no norm."""
    if norm is not None:
        return freeze_norm(norm, at)
    one = torch.ones(at.shape[-1], dtype=torch.double)
    return FrozenNorm(one, 0 * one, centred=False, scale=torch.ones(at.shape[:-1], dtype=torch.double))


def pulled_back(norm: FrozenNorm, v: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """What reads before a norm what v reads after it: ⟨norm.linear(x), v⟩ = ⟨x, pulled back⟩. Axes of its scale first."""
    u = v.double().cpu() * norm.gain
    u = u - u.mean(-1, keepdim=True) if norm.centred else u
    return u / norm.scale.view(*norm.scale.shape, *[1] * (u.ndim - norm.scale.ndim))


def output_path(model: Model, layer: int) -> OutputPath:
    """W_O by head, its bias and the post-norm. Raises SiteError for a layer the model lacks."""
    w_o, b_o = _weights(model.parts.locate(Site("z", layer)).module)
    return OutputPath(w_o.unflatten(0, (model.shape.n_heads, -1)), b_o, post_norm(model, layer))


def post_norm(model: Model, layer: int) -> nn.Module | None:
    """The norm between the heads' products and the residual stream; None where they are added as they are."""
    projection = model.parts.locate(Site("z", layer)).module
    written = model.parts.locate(Site("attn_out", layer)).module
    # attention holds its own projection; where a post-norm stands after it, that is what writes
    return None if any(module is projection for module in written.modules()) else written


def value_path(model: Model, layer: int) -> ValuePath:
    """W_V by query head, its bias and the pre-norm. Raises SiteError where the values are not a matrix of the residual."""
    place = model.parts.locate(Site("v", layer))
    if getattr(getattr(place.module, "weight", None), "ndim", 0) != 2:
        raise SiteError(f"L{layer}.v: values leave a {type(place.module).__name__}, not a matrix: there is no W_V")
    weight, bias = _weights(place.module)
    w_v, b_v = _values(place, weight), _values(place, bias[None])[0]
    group = model.shape.n_heads // model.shape.n_kv_heads
    return ValuePath(
        w_v.transpose(0, 1).repeat_interleave(group, 0), b_v.repeat_interleave(group, 0), _pre_norm(model, layer)
    )


def _weights(projection: Any) -> tuple[Tensor, Tensor]:
    """The matrix, input first, and the bias (zero where there is none)."""
    weight: Tensor = projection.weight.detach().double().cpu()
    matrix = weight if type(projection).__name__ == "Conv1D" else weight.T  # GPT-2 keeps its matrices input first
    bias: Tensor | None = getattr(projection, "bias", None)
    return matrix, matrix.new_zeros(matrix.shape[1]) if bias is None else bias.detach().double().cpu()


def _values(place: Place, columns: Float[Tensor, "row size"]) -> Float[Tensor, "row kv_head d_head"]:
    """Of the columns of a projection those that are values, by key-value head."""
    whole = columns[None]
    return (whole if place.view is None else place.view(whole))[0]


def _pre_norm(model: Model, layer: int) -> nn.Module | None:
    places = model.parts.blocks[layer].places
    named: Any = model.bridge.adapter.component_mapping["blocks"].submodules.get("ln1")
    if named is None or not named.name:
        return None
    norm = places["resid_pre"].module.get_submodule(named.name)
    # transformer-lens gives OLMo 2's post-norm this name too
    return None if norm is places["attn_out"].module else norm
