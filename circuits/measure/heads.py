"""Which single head matters? Patch each head's own result, at chosen positions.

    value[pair, layer, head] = metric of the base run with the head's z (before W_O) taken from the source

Patching z gives the same numbers as patching the head's result, and is right under grouped-query attention, where a
query head keeps its own z. Single heads understate what heads do together: see the classes.
Source: "Analysing the Refusal Circuit in Gemma 2b IT"; "Replicating 'Refusal Mechanism'".
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
from circuits.interventions import Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.result import Result
from circuits.sites import head
from circuits.tables import patched_frame, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class HeadPatching(Result):
    """Metric of the base run with one head's result replaced at `positions`."""

    value: Float[Tensor, "pair layer head"]
    source: Float[Tensor, " pair"]
    base: Float[Tensor, " pair"]
    positions: str
    direction: Direction

    def to_frame(self) -> pd.DataFrame:
        """One row per pair, layer and head: label, value (metric), fraction (recovered)."""
        axes = {"layer": list(range(self.value.shape[1])), "head": list(range(self.value.shape[2]))}
        frame = patched_frame(axes, self.value, self.base, self.source)
        labels = [head(layer, h).label for layer, h in zip(frame["layer"], frame["head"], strict=True)]
        return frame.assign(label=labels, positions=self.positions, direction=self.direction)

    def to_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per head: mean fraction, interval, and p over all cells (`frames.sweep_summary`).

        `clusters` names the cluster of each pair, such as its subject; without, pairs of one template are drawn together.
        """
        given = self.clusters if clusters is None else clusters
        table = sweep_summary(self.to_frame(), ["layer", "head", "label"], clusters=given)
        return table.assign(positions=self.positions, direction=self.direction)

    def figure(self) -> go.Figure:
        """Fraction recovered, layer × head, averaged over pairs."""
        table = self.to_summary()
        return heatmap(
            table,
            x="head", y="layer", value="mean", low="low", high="high", p="p", marked="survives",
            title=f"Single heads patched at {self.positions}, {self.direction[:-1]}ing",
            x_title="head", y_title="layer", unit="fraction recovered",
            quantile=1.0,  # few heads act, and they are what is looked for
            caption=f"{self.provenance.caption} · {said_of_dots(table, self.clusters)}",
        )  # fmt: skip


def patch_heads(
    model: Model, tokens: TokenPairs, metric: Metric, *, positions: Positions = "last", direction: Direction = "denoise"
) -> HeadPatching:
    """Patch every head's result at `positions` (one name, or positions as integers). Units of the metric, fp32.

    Raises SiteError for positions some prompt does not have, TokenError for a metric that does not fit the pairs.
    """
    n_layers, n_heads = model.shape.n_layers, model.shape.n_heads
    cells = [(Patch(head(layer, h), positions),) for layer in range(n_layers) for h in range(n_heads)]
    swept = sweep(model, tokens, metric, cells, direction=direction)
    return HeadPatching(
        provenance=provenance(model, tokens, metric, swept.certificate.line),
        value=swept.value.T.reshape(tokens.n_pairs, n_layers, n_heads),
        source=swept.source, base=swept.base, positions=str(positions), direction=direction,
    )  # fmt: skip
