"""What every sender adds to the residual stream in any run, so that all of them add up to it.

    attn_out = P_t(Σ_h z_h W_O^h + b_O)           P the post-norm at the scale t of this run, if there is one
             = Σ_h P_t0(z_h W_O^h) + post-norm + constant     t0 the scale of the reference run

The constant (the biases through P) is in no sender: it is the same in all runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.errors import ModelError
from circuits.model import Model
from circuits.model.value_path import output_path, post_norm
from circuits.model.weights import head_products
from circuits.sites import Site, SiteKind

SITES: tuple[SiteKind, ...] = ("z", "attn_out", "mlp_out")
"""What has to be kept of a run, of every block whose senders are asked for."""


@final
@dataclass(frozen=True, eq=False)
class _PostNorm:
    """A post-norm at the reference run's scales: gain ∘ x + constant."""

    gain: Float[Tensor, "pair pos d_model"]
    constant: Float[Tensor, "pair pos d_model"]
    """b_O through the norm, and the norm's own bias."""


@final
class Written:
    """Senders' writes of one model, heads through post-norms at the scales of one reference run.

    Raises ModelError, as soon as a block is asked for, where its post-norm is of a form not known here.
    """

    def __init__(self, model: Model, reference: Run) -> None:
        self._model, self._reference = model, reference
        self._norms: dict[int, _PostNorm | None] = {}

    def _norm(self, layer: int) -> _PostNorm | None:
        if layer not in self._norms:
            self._norms[layer] = self._frozen(layer)
        return self._norms[layer]

    def _frozen(self, layer: int) -> _PostNorm | None:
        if post_norm(self._model, layer) is None:
            return None
        path, z = output_path(self._model, layer), self._reference.seen[Site("z", layer)]
        norm = path.frozen(z)
        if norm.centred:
            raise ModelError(f"{self._model.name}: a post-norm that centres is not known here")
        constant = norm.linear(path.b_o.expand(*z.shape[:-2], -1)) + norm.bias
        return _PostNorm((norm.gain / norm.scale[..., None]).to(z), constant.to(z))

    def heads(
        self, layer: int, z: Float[Tensor, "row pair pos head d_head"], start: int = 0
    ) -> Float[Tensor, "row pair pos head d_model"]:
        """What every head adds; columns from `start`. Linear in z: of a difference it gives the difference."""
        projection = self._model.parts.locate(Site("z", layer)).module
        with torch.no_grad():
            products = head_products(projection, z.flatten(0, 1)).unflatten(0, z.shape[:2])
        norm = self._norm(layer)
        return products if norm is None else products * norm.gain[:, start:, None]

    def post_norm(
        self, layer: int, heads: Float[Tensor, "row pair pos head d_model"],
        attn_out: Float[Tensor, "row pair pos d_model"], start: int = 0,
    ) -> Float[Tensor, "row pair pos d_model"]:  # fmt: skip
        """What attention adds beyond its heads because the post-norm has another scale than in the reference run."""
        norm = self._norm(layer)
        return torch.zeros_like(attn_out) if norm is None else attn_out - heads.sum(-2) - norm.constant[:, start:]
