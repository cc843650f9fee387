"""Which single block matters? Patch one attention or MLP output, one layer and position at a time.

    value[pair, kind, layer, pos] = metric of the base run with attn_out or mlp_out of `layer` at `pos` from the source

Small effects everywhere do not show that no block matters: when many blocks compute the same thing, or later ones repair
what one lost, each alone looks unnecessary. Compare with groups. On post-norm models the site is after the norm.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", patching individual transformer blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from jaxtyping import Float
from torch import Tensor

from circuits.draw import heatmap
from circuits.engine import sweep
from circuits.engine.sweep import Direction
from circuits.frames import said_of_dots, sweep_summary
from circuits.interventions import Columns, Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.sites import Site
from circuits.tables import KINDS, patched_frame, position_labels, positions, provenance, with_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class BlockPatching(Result):
    """Metric of the base run with one block output replaced; the `kind` axis is attn_out, mlp_out."""

    value: Float[Tensor, "pair kind layer pos"]
    source: Float[Tensor, " pair"]
    base: Float[Tensor, " pair"]
    direction: Direction
    tokens: TokenPairs

    def to_frame(self) -> pd.DataFrame:
        """One row per pair, kind, layer and position: role, token, value (metric), fraction (recovered)."""
        axes = {"kind": list(KINDS), "layer": list(range(self.value.shape[2])), "pos": positions(self.tokens)}
        frame = patched_frame(axes, self.value, self.base, self.source)
        return with_tokens(frame.assign(direction=self.direction), self.tokens)

    def to_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per kind, layer and position: mean fraction, interval, and p over all cells (`frames.sweep_summary`).

        `clusters` names the cluster of each pair, such as its subject; without, pairs of one template are drawn together.
        """
        given = self.clusters if clusters is None else clusters
        return sweep_summary(self.to_frame(), ["kind", "layer", "pos"], clusters=given).assign(direction=self.direction)

    def figure(self) -> go.Figure:
        """Fraction recovered, layer × position, attention beside MLP."""
        frame = self.to_frame()
        labels, muted = position_labels(frame)
        table = self.to_summary()
        return heatmap(
            table,
            x="pos", y="layer", value="mean", low="low", high="high", p="p", marked="survives",
            facet="kind", x_labels=labels, muted=muted,
            title=f"Single blocks patched, {self.direction[:-1]}ing",
            x_title="position (from the end)", y_title="layer", unit="fraction recovered",
            quantile=1.0,  # few cells act, and they are what is looked for
            caption=f"{self.provenance.caption} · {said_of_dots(table, self.clusters)}",
        )  # fmt: skip


def patch_blocks(
    model: Model, tokens: TokenPairs, metric: Metric, *, direction: Direction = "denoise"
) -> BlockPatching:
    """Patch `attn_out` and `mlp_out` at every layer and position. Values in units of the metric, fp32.

    Raises TokenError for a metric that does not fit the pairs, before anything is run.
    """
    n_layers = model.shape.n_layers
    cells = [
        (Patch(Site(kind, layer), Columns((p,))),)
        for kind in KINDS
        for layer in range(n_layers)
        for p in range(tokens.n_pos)
    ]
    swept = sweep(model, tokens, metric, cells, direction=direction)
    return BlockPatching(
        provenance=provenance(model, tokens, metric, swept.certificate.line),
        value=swept.value.T.reshape(tokens.n_pairs, len(KINDS), n_layers, -1),
        source=swept.source, base=swept.base, direction=direction, tokens=tokens,
    )  # fmt: skip
