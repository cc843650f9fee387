"""How the metric changes when one receiver alone reads another residual stream: queries of a head, an MLP, the final norm.

    receiver     gradient at its residual input
    L9.q[6]      through the pre-norm (its scale's derivative included), W_Q of this head and the norm on queries
    L9.k[0]      likewise; all heads of the group read these keys, so it is their sum (L9.v[0] too)
    L9.MLP       what a change of the stream does beyond staying in it: gradient before the MLP minus gradient after it
    metric       gradient at the final residual stream

From the gradients at q, k, v and at what is added to the stream in one backward pass; all receivers in the order of
`all_receivers`. Those of a block (and the stream that stays) add up to the gradient at what enters it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.engine.gradients import Gradients
from circuits.model import Model
from circuits.model.parts import View
from circuits.model.value_path import value_path
from circuits.sites import Site, SiteKind

_HEADS: Final[tuple[Literal["q", "k", "v"], ...]] = ("q", "k", "v")
Receivers = Float[Tensor, "cell pair pos d_model"]
"""Every receiver of a block: q of each head, k and v of each key-value head, the MLP."""


def sites(layers: Iterable[int]) -> list[Site]:
    """Where one pass has to take gradients for all receivers of these blocks."""
    kinds: tuple[SiteKind, ...] = ("resid_pre", *_HEADS, "attn_out", "mlp_out")
    return [Site(kind, layer) for layer in layers for kind in kinds]


@final
@dataclass(frozen=True, eq=False)
class _Projection:
    """From the normalised stream to q, k or v by head, with the norm on them where there is one."""

    matrix: Float[Tensor, "d_model size"]
    view: View | None
    """From all that the matrix gives to the heads."""
    module: nn.Module
    norm: nn.Module | None
    n_heads: int

    @property
    def by_head(self) -> Float[Tensor, "d_model head d_head"]:
        whole = self.matrix[None]
        return whole.unflatten(-1, (self.n_heads, -1))[0] if self.view is None else self.view(whole)[0]


@final
class ReceiverGradients:
    """Pulls gradients back to what every receiver of one model reads."""

    def __init__(self, model: Model) -> None:
        """Raises SiteError where queries, keys or values are not to be had."""
        self._parallel = "resid_mid" in model.parts.lacking
        self._pre = [value_path(model, layer).pre for layer in range(model.shape.n_layers)]
        self._projections = [
            {kind: _projection(model, kind, layer) for kind in _HEADS} for layer in range(model.shape.n_layers)
        ]

    def block(self, layer: int, found: Gradients) -> Receivers:
        """Of all receivers of a block, from a pass with one backward pass that took `sites` there."""
        pre, (at,) = Site("resid_pre", layer), found.at
        heads = self._heads(layer, found.seen[pre], {kind: at[Site(kind, layer)] for kind in _HEADS})
        after = at[Site("mlp_out", layer)]
        mlp = at[pre] - after - heads.sum(0) if self._parallel else at[Site("attn_out", layer)] - after
        return torch.cat([heads, mlp[None]])

    def _heads(
        self, layer: int, x: Float[Tensor, "pair pos d_model"], at: dict[Literal["q", "k", "v"], Tensor]
    ) -> Float[Tensor, "head pair pos d_model"]:
        pre = self._pre[layer]
        with torch.enable_grad():
            rows = torch.cat([_before_norm(self._projections[layer][kind], pre, x, at[kind]) for kind in _HEADS])
            if pre is None:
                return rows
            many = x.detach().expand_as(rows).requires_grad_()
            return torch.autograd.grad(pre(many), many, rows)[0]


def final_stream(model: Model, found: Gradients) -> Float[Tensor, "pair pos d_model"]:
    """Of the metric as a receiver, which reads the final residual stream."""
    return found.at[0][Site("mlp_out", model.shape.n_layers - 1)]


def _before_norm(
    p: _Projection, pre: nn.Module | None, x: Float[Tensor, "pair pos d_model"],
    grad: Float[Tensor, "pair pos head d_head"],
) -> Float[Tensor, "head pair pos d_model"]:  # fmt: skip
    """From gradients at every head to those at the normalised stream, head by head."""
    if p.norm is None:
        return torch.einsum("bphe,dhe->hbpd", grad, p.by_head)
    entered = p.module(x if pre is None else pre(x)).detach().requires_grad_()
    apart = entered.unflatten(-1, (p.n_heads, -1))
    if _mixes(p.norm, apart.shape[-1]):  # its scale is that of all heads together: one row for each head
        many = entered.detach().expand(p.n_heads, *entered.shape).clone().requires_grad_()
        one = torch.eye(p.n_heads).to(grad)[:, None, None, :, None] * grad
        back = torch.autograd.grad(p.norm(many), many, one.flatten(-2))[0]
        return back @ p.matrix.T
    (back,) = torch.autograd.grad(p.norm(apart), entered, grad)
    return torch.einsum("bphe,dhe->hbpd", back.unflatten(-1, (p.n_heads, -1)), p.by_head)


def _mixes(norm: Any, d_head: int) -> bool:
    """Whether a norm on queries or keys is over all heads at once."""
    return norm.weight.numel() != d_head


def _projection(model: Model, kind: Literal["q", "k", "v"], layer: int) -> _Projection:
    place = model.parts.locate(Site(kind, layer))
    n_heads = model.shape.n_heads if kind == "q" else model.shape.n_kv_heads
    if getattr(getattr(place.module, "weight", None), "ndim", 0) == 2:
        return _Projection(_matrix(place.module), place.view, place.module, None, n_heads)
    names: Any = model.bridge.adapter.component_mapping["blocks"].submodules["attn"]
    block = model.parts.blocks[layer].whole
    module = block.get_submodule(names.name).get_submodule(names.submodules[kind].name)
    return _Projection(_matrix(module), None, module, place.module, n_heads)


def _matrix(module: Any) -> Float[Tensor, "d_model size"]:
    """Input first, which is how GPT-2 keeps it."""
    weight: Tensor = module.weight.detach()
    return weight if type(module).__name__ == "Conv1D" else weight.T
