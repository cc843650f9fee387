"""What every edge does, as frames and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars, heatmap
from circuits.engine.sweep import Direction
from circuits.frames import said_of_dots, sweep_summary
from circuits.result import Result
from circuits.tables import patched_frame

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_MOST_BARS: Final = 30
_MOST_RECEIVERS: Final = 40
_MOST_SENDERS: Final = 80
"""Columns and rows of a grid whose names can be read."""
_FILLED: Final = 0.4
"""The share of a grid's cells that have to be edges, else it is mostly holes."""


@final
@dataclass(frozen=True, kw_only=True)
class Paths(Result):
    """Metric of the base run where one receiver reads what one sender gives in the source run."""

    value: Float[Tensor, "pair cell"]
    """A cell is an edge."""
    base: Float[Tensor, " pair"]
    source: Float[Tensor, " pair"]
    edges: tuple[tuple[str, str], ...]
    """(sender, receiver) of every cell."""
    kinds: tuple[str, ...]
    """What of the receiver reads: q, k, v, mlp, or final."""
    through: tuple[str, ...]
    positions: str
    """Of the receiver."""
    direction: Direction

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and edge: sender, kind, receiver, value (metric), fraction of the gap between the two runs."""
        frame = patched_frame({"edge": list(range(len(self.edges)))}, self.value, self.base, self.source)
        at = frame["edge"].to_numpy()
        return frame.assign(
            sender=[self.edges[i][0] for i in at], kind=[self.kinds[i] for i in at],
            receiver=[self.edges[i][1] for i in at], through=" ".join(self.through), positions=self.positions,
            direction=self.direction,
        )  # fmt: skip

    def to_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per edge: mean fraction, interval, and p over all edges (`frames.sweep_summary`).

        `clusters` names the cluster of each pair, such as its subject; without, pairs of one template are drawn together.
        """
        given = self.clusters if clusters is None else clusters
        table = sweep_summary(self.to_frame(), ["edge", "sender", "kind", "receiver"], clusters=given)
        return table.assign(through=" ".join(self.through), positions=self.positions, direction=self.direction)

    def figure(self) -> go.Figure:
        """Sender × receiver where the edges are a grid that can be read; else the largest edges, with intervals."""
        table = self.to_summary()
        said = said_of_dots(table, self.clusters)
        caption = f"{self.provenance.caption} · {said}"
        route = f" through {', '.join(self.through)}" if self.through else ""
        where = "all positions" if self.positions == "all" else self.positions
        title = f"Single edges{route}, receivers changed at {where}, {self.direction[:-1]}ing"
        senders, receivers = (list(dict.fromkeys(edge[end] for edge in self.edges)) for end in (0, 1))
        few = 1 < len(senders) <= _MOST_SENDERS and 1 < len(receivers) <= _MOST_RECEIVERS
        if few and len(self.edges) >= _FILLED * len(senders) * len(receivers):
            return self._grid(table, senders, receivers, title, caption)
        return self._largest(table, title, caption)

    def _grid(
        self, table: pd.DataFrame, senders: list[str], receivers: list[str], title: str, caption: str
    ) -> go.Figure:
        import pandas as pd

        ordered = table.assign(
            sender=pd.Categorical(table["sender"], senders), receiver=pd.Categorical(table["receiver"], receivers)
        )
        return heatmap(
            ordered, x="receiver", y="sender", value="mean", low="low", high="high", p="p", marked="survives",
            title=title, x_title="receiver", y_title="sender", unit="fraction of the gap", quantile=1.0, caption=caption,
        )  # fmt: skip

    def _largest(self, table: pd.DataFrame, title: str, caption: str) -> go.Figure:
        size = table["mean"].abs().sort_values(ascending=False, kind="stable")
        shown = table.loc[size.index[:_MOST_BARS]]
        left_out = len(table) - len(shown)
        dots = ["● " if survives else "" for survives in shown["survives"]]
        shown = shown.assign(label=dots + shown["sender"] + " → " + shown["receiver"])
        more = f" · the {len(shown)} largest of {len(table)} edges" if left_out else ""
        return bars(
            shown, x="label", y="mean", low="low", high="high", title=title, x_title="edge",
            y_title="fraction of the gap", caption=f"{caption}{more}",
        )  # fmt: skip
