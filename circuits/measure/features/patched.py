"""The result of patching features: single ones, all of them, what they leave over, and everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine.sweep import Direction
from circuits.frames import sweep_summary
from circuits.result import Result
from circuits.tables import patched_frame

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_DRAWN = 15
"""Features in the figure."""


@final
@dataclass(frozen=True, kw_only=True)
class FeaturePatching(Result):
    """Metric of the base run with features of one site taken from the source run, the rest of the site left as it is."""

    value: Float[Tensor, "pair feature"]
    """Exactly `base` where the feature is the same in both runs of a pair, as where it is active in neither."""
    features: tuple[int, ...]
    difference: Float[Tensor, "pair feature"]
    """Source − base activation of each feature, summed over the patched positions."""
    parts: dict[str, Float[Tensor, " pair"]]
    """Metric with larger parts of the site patched: "all features", "error" (what they leave over), "scale" (what
    normalisation reads off the activation, only where there is one), "everything" (all of these together), and "site"
    (the activation itself, by the engine's own patch), which must equal "everything"."""
    base: Float[Tensor, " pair"]
    source: Float[Tensor, " pair"]
    complete: bool
    """Whether every feature that differs between the two runs of some pair is among `features`."""
    identity: float
    """Largest |everything − site|, in units of the metric."""
    positions: str
    direction: Direction
    sae: str
    site: str
    site_kind: str
    layer: int

    @property
    def labels(self) -> tuple[str, ...]:
        """`L3.F12`, as a graph names features."""
        return tuple(f"L{self.layer}.F{i}" for i in self.features)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and feature: label, difference (activation), value (metric), fraction (recovered)."""
        frame = patched_frame({"feature": list(self.features)}, self.value, self.base, self.source)
        n = len(self.base)
        return frame.assign(
            label=list(self.labels) * n, difference=self.difference.flatten().double().numpy(), positions=self.positions,
            direction=self.direction,
        )  # fmt: skip

    def parts_frame(self) -> pd.DataFrame:
        """One row per pair and part: value, fraction; and the sum of the single features, where all were measured.

        "sum of single features" adds up their effects. It differs from "all features" by what features do together behind
        the site: decoding adds, but norms, attention and MLPs do not.
        """
        parts = dict(self.parts)
        if self.complete:
            parts["sum of single features"] = self.base + (self.value - self.base[:, None]).sum(1)
        value = torch.stack(list(parts.values()), 1)
        frame = patched_frame({"part": list(parts)}, value, self.base, self.source)
        return frame.assign(positions=self.positions, direction=self.direction)

    def to_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per feature: mean fraction, interval, and p over all features (`frames.sweep_summary`)."""
        given = self.clusters if clusters is None else clusters
        table = sweep_summary(self.to_frame(), ["feature", "label"], clusters=given)
        return table.assign(positions=self.positions, direction=self.direction)

    def parts_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per part: mean fraction and interval, and p over all parts."""
        given = self.clusters if clusters is None else clusters
        return sweep_summary(self.parts_frame(), ["part"], clusters=given).assign(direction=self.direction)

    def figure(self) -> go.Figure:
        """Fraction recovered by the features that matter the most, and by the larger parts."""
        import pandas as pd

        table = self.to_summary()
        largest = table.iloc[table["mean"].abs().sort_values(ascending=False, kind="stable").index[:_DRAWN]]
        single = largest.assign(node=largest["label"], panel="single features")
        together = self.parts_summary()
        return bars(
            pd.concat([single, together.assign(node=together["part"], panel="parts of the site")], ignore_index=True),
            x="node", y="mean", facet="panel", low="low", high="high",
            title=f"Features of {self.site} patched at {self.positions}, {self.direction[:-1]}ing", x_title="patched",
            y_title="fraction recovered", caption=f"{self.provenance.caption} · {self.sae}",
        )  # fmt: skip

    def graph_rows(self, *, n: int | None = None, target: str = "metric") -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows of nodes and edges for `component_graph`: the `n` features of largest mean effect (all), and the error.

        Node effects are mean fractions with interval and p. The edge into `target` is of kind `writes`: the whole effect of
        the node, by whatever way. `target` has to be among the graph's nodes: it is not in these rows.
        """
        import pandas as pd

        table = self.to_summary()
        kept = table.iloc[table["mean"].abs().sort_values(ascending=False, kind="stable").index[:n]]
        error = self.parts_summary().query("part == 'error'")
        at = f"@{self.positions}" if self.positions != "all" else ""
        rows: list[dict[str, Any]] = [
            {"id": f"{row['label']}{at}", "kind": "feature", "feature": int(row["feature"])} | _measured(row)
            for row in kept.to_dict("records")
        ]
        rows += [
            {"id": f"L{self.layer}.{self.site_kind} error{at}", "kind": "error", "feature": None} | _measured(row)
            for row in error.to_dict("records")
        ]
        nodes = pd.DataFrame(rows).assign(layer=self.layer, site=self.site_kind)
        nodes["position"] = self.positions if at else None
        measured = ["effect", "low", "high", "p"]
        edges = nodes[["id", *measured]].rename(columns={"id": "source"}).assign(target=target, kind="writes")
        return nodes, edges[["source", "target", "kind", *measured]]


def _measured(row: dict[Any, Any]) -> dict[str, Any]:
    return {"effect": row["mean"], "low": row["low"], "high": row["high"], "p": row["p"]}
