"""Where is the information? Patch the residual stream, one layer and position at a time.

    value[pair, layer, pos] = metric of the base run with the residual entering `layer` at `pos` taken from the source

Denoising shows where the source's residual is enough to bring the behaviour back; noising, where losing it breaks it.
It misleads where information stands at two positions at once: each alone looks unnecessary.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", activation patching the residual stream.
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
from circuits.tables import patched_frame, position_labels, positions, provenance, with_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class ResidualPatching(Result):
    """Metric of the base run with one residual vector replaced; columns before the first difference equal `base`."""

    value: Float[Tensor, "pair layer pos"]
    source: Float[Tensor, " pair"]
    base: Float[Tensor, " pair"]
    direction: Direction
    tokens: TokenPairs

    def to_frame(self) -> pd.DataFrame:
        """One row per pair, layer and position: role, token, value (metric), fraction (recovered)."""
        layers = list(range(self.value.shape[1]))
        frame = patched_frame({"layer": layers, "pos": positions(self.tokens)}, self.value, self.base, self.source)
        return with_tokens(frame.assign(direction=self.direction), self.tokens)

    def to_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per layer and position: mean fraction, interval, and p over all cells (`frames.sweep_summary`).

        `clusters` names the cluster of each pair, such as its subject; without, pairs of one template are drawn together.
        """
        given = self.clusters if clusters is None else clusters
        return sweep_summary(self.to_frame(), ["layer", "pos"], clusters=given).assign(direction=self.direction)

    def figure(self) -> go.Figure:
        """Fraction recovered, layer × position, averaged over pairs."""
        frame = self.to_frame()
        labels, muted = position_labels(frame)
        table = self.to_summary()
        return heatmap(
            table,
            x="pos", y="layer", value="mean", low="low", high="high", p="p", marked="survives",
            x_labels=labels, muted=muted,
            title=f"Residual stream patched, {self.direction[:-1]}ing",
            x_title="position (from the end)", y_title="layer entered", unit="fraction recovered", quantile=1.0,
            caption=f"{self.provenance.caption} · {said_of_dots(table, self.clusters)}",
        )  # fmt: skip


def patch_residual(
    model: Model, tokens: TokenPairs, metric: Metric, *, direction: Direction = "denoise"
) -> ResidualPatching:
    """Patch `resid_pre` at every layer and position. Values in units of the metric, fp32.

    Raises TokenError for a metric that does not fit the pairs, before anything is run.
    """
    layers = range(model.shape.n_layers)
    cells = [(Patch(Site("resid_pre", layer), Columns((p,))),) for layer in layers for p in range(tokens.n_pos)]
    swept = sweep(model, tokens, metric, cells, direction=direction)
    value = swept.value.T.reshape(tokens.n_pairs, len(layers), -1)
    return ResidualPatching(
        provenance=provenance(model, tokens, metric, swept.certificate.line),
        value=value, source=swept.source, base=swept.base, direction=direction, tokens=tokens,
    )  # fmt: skip
