"""The change in the metric between two runs, term by term, exactly.

1. Metric: M(logits) is replaced by its tangent at the intact logits, whose direction in the normalised residual is u. For
   a metric linear in uncapped logits that is the metric itself; otherwise the rest is the `nonlinear` term.
2. Final norm: N(x) = s(x) g ⊙ Cx + N(0), so with w = C(g ⊙ u)
       Δ⟨N(x), u⟩ = s ⟨Δx, w⟩ + (s* − s) ⟨x*, w⟩       stars: the ablated run; the second is the `final norm` term.
3. Residual: Δx is the sum of Δattn_out and Δmlp_out over all layers. MLPs are read as they are.
4. Heads: attn_out = Σ_h z_h W_O^h + b_O, or its post-norm P, with scale t. Then
       ΔP(r) = Σ_h t* g_P ⊙ CΔr_h + (t* − t) g_P ⊙ Cr      the second is the layer's `post-norm` term.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.engine import Reading, read
from circuits.engine.read import On
from circuits.interventions import Cell
from circuits.linalg import freeze_norm
from circuits.metrics import BoundMetric
from circuits.model import Model
from circuits.model.value_path import output_path
from circuits.prompts.align import TokenPairs
from circuits.sites import Site
from circuits.tables import KINDS


@final
@dataclass(frozen=True, eq=False)
class Terms:
    """Changes ablated − intact, in units of the metric; double precision. Layers that were not read are zero."""

    intact: Float[Tensor, " pair"]
    ablated: Float[Tensor, " pair"]
    attn: Float[Tensor, "pair layer"]
    """Whole attention blocks: heads and post-norm together."""
    heads: Float[Tensor, "pair layer head"]
    post_norms: Float[Tensor, "pair layer"]
    mlps: Float[Tensor, "pair layer"]
    final_norm: Float[Tensor, " pair"]
    nonlinear: Float[Tensor, " pair"]


@final
class Decomposer:
    """The intact run, and what every ablated one is compared with."""

    def __init__(self, model: Model, tokens: TokenPairs, metric: BoundMetric, *, on: On, first: int) -> None:
        self._model, self._tokens, self._metric = model, tokens, metric
        self._on: On = on
        self._layers = range(first, model.shape.n_layers)
        self._intact = self._read(())
        self._final = _wide(model.parts.ln_final)
        paths = {layer: output_path(model, layer) for layer in self._layers}
        self._bias = {layer: path.b_o for layer, path in paths.items()}
        self._post = {layer: _wide(path.post) for layer, path in paths.items() if path.post is not None}
        self._x = self._last(self._intact, Site("resid_post", model.shape.n_layers - 1))
        self._norm = freeze_norm(self._final, self._x.float())
        pulled = None if model.softcap is not None else metric.pullback(model.W_U)
        self.linear = pulled is not None
        self._tangent: Tensor | None = None if pulled is not None else self._slope(self._uncapped(self._x))
        self._w = self._norm.transposed(_unembedded(model, self._tangent) if pulled is None else pulled)

    @property
    def post_normed(self) -> bool:
        """Whether attention outputs are normalised before they are added."""
        return bool(self._post)

    def terms(self, cell: Cell) -> Terms:
        """Run one ablation and take its change apart."""
        run, model = self._read(cell), self._model
        x = self._last(run, Site("resid_post", model.shape.n_layers - 1))
        attn, mlps, post_norms = (torch.zeros(len(x), model.shape.n_layers).double() for _ in range(3))
        heads = torch.zeros(len(x), model.shape.n_layers, model.shape.n_heads).double()
        for layer in self._layers:
            for kind, into in zip(KINDS, (attn, mlps), strict=True):
                into[:, layer] = self._through(self._change(run, Site(kind, layer)))
            results = self._change(run, Site("result", layer))  # [pair, head, d_model]
            if layer in self._post:
                heads[:, layer], post_norms[:, layer] = self._post_normed(run, layer, results)
            else:
                heads[:, layer] = self._through(results)
        intact, ablated = (self._metric(r.logits[None].to(model.device))[0].double().cpu() for r in (self._intact, run))
        rescaled = 1 / freeze_norm(self._final, x.float()).scale - 1 / self._norm.scale
        return Terms(
            intact=intact, ablated=ablated, attn=attn, heads=heads, post_norms=post_norms, mlps=mlps,
            final_norm=rescaled * (x * self._w).sum(-1), nonlinear=self._nonlinear(x),
        )  # fmt: skip

    def _read(self, cell: Cell) -> Reading:
        sites = [Site(kind, layer) for layer in self._layers for kind in ("result", *KINDS)]
        sites.append(Site("resid_post", self._model.shape.n_layers - 1))
        return read(self._model, self._tokens, cell, sites, on=self._on, columns=(-1,))

    def _last(self, run: Reading, site: Site) -> Float[Tensor, "pair *head d_model"]:
        return run.seen[site][:, 0].double()

    def _change(self, run: Reading, site: Site) -> Float[Tensor, "pair *head d_model"]:
        return self._last(run, site) - self._last(self._intact, site)

    def _through(self, written: Float[Tensor, "pair *head d_model"]) -> Float[Tensor, "pair ..."]:
        """What a change of the final residual does to the metric through the intact run's final norm."""
        axes = (len(written), *[1] * (written.ndim - 2))
        return (written * self._w.view(*axes, -1)).sum(-1) / self._norm.scale.view(axes)

    def _post_normed(
        self, run: Reading, layer: int, change: Float[Tensor, "pair head d_model"]
    ) -> tuple[Float[Tensor, "pair head"], Float[Tensor, " pair"]]:
        """Changes of the heads through the ablated run's post-norm, and what its other scale does to the rest."""
        site = Site("result", layer)
        before = self._last(self._intact, site).sum(-2) + self._bias[layer]
        after = self._last(run, site).sum(-2) + self._bias[layer]
        intact, edited = (freeze_norm(self._post[layer], x.float()) for x in (before, after))
        return self._through(edited.linear(change)), self._through(edited.linear(before) - intact.linear(before))

    def _uncapped(self, x: Float[Tensor, "pair d_model"]) -> Float[Tensor, "pair d_vocab"]:
        parts, model = self._model.parts, self._model
        with torch.no_grad():
            return parts.unembed(parts.ln_final(x.to(model.device, model.dtype)[:, None]))[:, 0].float()

    def _of_uncapped(self, logits: Float[Tensor, "pair d_vocab"]) -> Float[Tensor, " pair"]:
        cap = self._model.softcap
        return self._metric((logits if cap is None else torch.tanh(logits / cap) * cap)[None])[0]

    def _slope(self, logits: Float[Tensor, "pair d_vocab"]) -> Float[Tensor, "pair d_vocab"]:
        """Gradient of the metric in the uncapped logits; pairs do not see each other, so one backward pass serves all."""
        with torch.enable_grad():
            at = logits.clone().requires_grad_()
            return torch.autograd.grad(self._of_uncapped(at).sum(), at)[0]

    def _nonlinear(self, x: Float[Tensor, "pair d_model"]) -> Float[Tensor, " pair"]:
        """What the metric changes beyond its tangent, from the two runs' uncapped logits alone."""
        if self._tangent is None:
            return torch.zeros(len(x)).double()
        before, after = self._uncapped(self._x), self._uncapped(x)
        straight = (self._tangent.double() * (after - before).double()).sum(-1)
        return (self._of_uncapped(after).double() - self._of_uncapped(before).double() - straight).cpu()


def _wide(norm: nn.Module) -> nn.Module:
    """The same norm in fp32, on the CPU, where readings are."""
    return copy.deepcopy(norm).float().cpu()


def _unembedded(model: Model, slope: Float[Tensor, "pair d_vocab"] | None) -> Float[Tensor, "pair d_model"]:
    """The slope pulled back through the unembedding, in double: many terms that nearly cancel."""
    if slope is None:
        raise ValueError("a metric without a pullback has a slope")
    parts = zip(slope.split(4096, -1), model.W_U.split(4096), strict=True)
    return torch.stack([(s.double() @ rows.double()).cpu() for s, rows in parts]).sum(0)
