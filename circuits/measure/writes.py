"""Where does a direction enter the residual stream? Its component by layer, and what each block writes along it.

    by layer   value[side, pair, layer] = ⟨resid entering layer, v⟩ at one position, v of norm 1
    written    value[side, pair, kind, layer] = ⟨attn_out or mlp_out of layer, v⟩ there

The difference clean − corrupt removes what any prompt of this form writes. A direction estimated from the same pairs
shows a gap by construction: pass one direction per pair, estimated without it (`DirectionChoice.held_out`). The null is
the gap along random directions of the same norm.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", refusal component; per-block contributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars, lines
from circuits.engine import capture
from circuits.errors import UndefinedError
from circuits.frames import long_frame, summary
from circuits.linalg import random_directions
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.sites import Site
from circuits.tables import KINDS, SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class Components(Result):
    """Component along the direction, of the residual by layer and of what each block writes, at the last position."""

    residual: Float[Tensor, "side pair depth"]
    """Entering each block, and last the final residual."""
    written: Float[Tensor, "side pair kind layer"]
    null_residual: Float[Tensor, "direction depth"]
    """Mean gap clean − corrupt along random directions."""
    null_written: Float[Tensor, "direction kind layer"]

    def to_frame(self) -> pd.DataFrame:
        """One row per side, pair and layer: the residual's component (`value`)."""
        _, n_pairs, n_layers = self.residual.shape
        axes = {"side": list(SIDES), "pair": list(range(n_pairs)), "layer": list(range(n_layers))}
        return long_frame(axes, {"value": self.residual.double().numpy()})

    def written_frame(self) -> pd.DataFrame:
        """One row per pair, kind and layer: what the block writes, clean − corrupt (`value`)."""
        gap = (self.written[0] - self.written[1]).double().numpy()
        axes = {"pair": list(range(gap.shape[0])), "kind": list(KINDS), "layer": list(range(gap.shape[2]))}
        return long_frame(axes, {"value": gap})

    def gap_frame(self) -> pd.DataFrame:
        """One row per layer: mean gap clean − corrupt with interval, and the 95 % range along random directions."""
        gap = (self.residual[0] - self.residual[1]).double().numpy()
        axes = {"pair": list(range(gap.shape[0])), "layer": list(range(gap.shape[1]))}
        table = summary(long_frame(axes, {"value": gap}), ["layer"], "value", clusters=self.clusters)
        low, high = np.quantile(self.null_residual.double().numpy(), [0.025, 0.975], axis=0)
        return table.assign(null_low=low, null_high=high)

    def written_summary(self) -> pd.DataFrame:
        """One row per kind and layer: mean written difference with interval, and the 95 % random range."""
        table = summary(self.written_frame(), ["kind", "layer"], "value", clusters=self.clusters)
        null = np.quantile(self.null_written.double().numpy(), [0.025, 0.975], axis=0)
        layers = list(range(null.shape[2]))
        spread = long_frame({"kind": list(KINDS), "layer": layers}, {"null_low": null[0], "null_high": null[1]})
        return table.merge(spread, on=["kind", "layer"])

    def figure(self) -> go.Figure:
        """The residual's component by layer, clean and corrupt, with intervals over pairs."""
        return lines(
            summary(self.to_frame(), ["side", "layer"], "value", clusters=self.clusters),
            x="layer", y="mean", color="side", low="low", high="high",
            title="Component along the direction, last position",
            x_title="layer entered", y_title="component (residual units)", caption=self.provenance.caption,
        )  # fmt: skip

    def written_figure(self) -> go.Figure:
        """What each attention block and MLP writes along the direction, clean − corrupt."""
        return bars(
            self.written_summary(), x="layer", y="mean", color="kind", low="low", high="high",
            title="Written along the direction, clean − corrupt, last position",
            x_title="layer", y_title="written (residual units)", caption=self.provenance.caption,
        )  # fmt: skip


def components(
    model: Model, tokens: TokenPairs, direction: Float[Tensor, "*pair d_model"], *, null_draws: int = 200, seed: int = 0
) -> Components:
    """Components along one direction, or along each pair's own, at the last position.

    Raises UndefinedError where a direction has norm zero.
    """
    per_pair = direction.float().expand(tokens.n_pairs, -1)
    norms = per_pair.norm(dim=-1, keepdim=True)
    if not (norms > 1e-8).all():
        raise UndefinedError("no direction: norm zero, or held out of a single pair; choose another, or more pairs")
    unit = per_pair / norms
    n_layers = model.shape.n_layers
    sites = [Site(kind, layer) for kind in KINDS for layer in range(n_layers)]
    null = random_directions(null_draws, model.shape.d_model, seed=seed)
    residuals: list[Tensor] = []
    writes: list[Tensor] = []
    for ids in (tokens.clean, tokens.corrupt):
        run = capture(model, ids, tokens.mask, sites)
        residuals.append(torch.stack([x[:, -1] for x in run.resid], 1).float().cpu())  # [pair, layer, d_model]
        written = torch.stack([run.seen[site][:, -1] for site in sites], 1).float().cpu()
        writes.append(written.unflatten(1, (len(KINDS), n_layers)))
    residual, write = torch.stack(residuals), torch.stack(writes)
    return Components(
        provenance=provenance(model, tokens),
        residual=torch.einsum("spld,pd->spl", residual, unit),
        written=torch.einsum("spkld,pd->spkl", write, unit),
        null_residual=torch.einsum("ld,nd->nl", (residual[0] - residual[1]).mean(0), null),
        null_written=torch.einsum("kld,nd->nkl", (write[0] - write[1]).mean(0), null),
    )
