"""The scores of a screen, pair by pair, as a frame and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from circuits.draw import bars
from circuits.engine.edges import Edge
from circuits.frames import long_frame
from circuits.result import Result
from circuits.stats import mean_intervals

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_MOST_BARS: Final = 20


@final
@dataclass(frozen=True, kw_only=True)
class Screen(Result):
    """Estimated change of the metric when the base run's node, or edge, is replaced by the source run's."""

    score: Float[Tensor, "pair cell"]
    """Without a sign for `atp-graddrop`, whose estimates are absolute."""
    base: Float[Tensor, " pair"]
    """The metric of both runs."""
    source: Float[Tensor, " pair"]
    names: tuple[str, ...]
    """Labels of nodes (`L2.H6`), or of edges (`L2.H6 → L9.q[6]`)."""
    senders: tuple[str, ...]
    """Of edges; empty for nodes. Likewise receivers."""
    receivers: tuple[str, ...]
    method: str
    direction: str
    positions: str
    steps: int
    """Points between the two runs; 1 for methods without."""
    forward_passes: int
    """Over all prompts, the two runs themselves among them."""
    backward_passes: int

    @property
    def what(self) -> tuple[str, ...] | tuple[Edge, ...]:
        """The nodes as labels, or the edges: what the exact effects of `verify` are asked of."""
        return tuple(map(Edge, self.senders, self.receivers)) if self.senders else self.names

    @property
    def signed(self) -> bool:
        """Whether a score says which way the metric goes."""
        return self.method != "atp-graddrop"

    @property
    def size(self) -> NDArray[np.float64]:
        """Mean |score| over pairs, of every name: what they are ranked by."""
        return self.score.double().abs().mean(0).numpy()

    def top(self, n: int) -> list[Any]:
        """The n nodes or edges of largest mean |score|, the largest first."""
        what = self.what  # made anew at every call
        return [what[i] for i in np.argsort(-self.size, kind="stable")[:n]]

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and name: name, score; for edges sender, receiver and kind (what the receiver reads)."""
        axes = {"pair": list(range(len(self.score))), "cell": list(range(len(self.names)))}
        frame = long_frame(axes, {"score": self.score.double().numpy()})
        columns = {column: np.array(values, dtype=object)[frame["cell"]] for column, values in self._columns().items()}
        return frame.assign(**columns, method=self.method, direction=self.direction).drop(columns="cell")

    def to_summary(self, *, most: int | None = None) -> pd.DataFrame:
        """One row per name, the largest first: rank, mean score with its 95 % interval, n, size (mean |score|).

        `most` keeps so many. Intervals are over pairs (whole templates where pairs share them), of the estimate: how far
        that is from the effect itself only `verify` says.
        """
        import pandas as pd

        order = np.argsort(-self.size, kind="stable")[:most]
        found = mean_intervals(self.score[:, order.tolist()].double().numpy(), self.clusters)
        names = {column: [values[i] for i in order] for column, values in self._columns().items()}
        return pd.DataFrame({
            "rank": range(1, len(order) + 1), **names, "mean": [i.estimate for i in found],
            "low": [i.low for i in found], "high": [i.high for i in found], "n": [i.n for i in found],
            "size": self.size[order], "method": self.method, "direction": self.direction,
        })  # fmt: skip

    def figure(self) -> go.Figure:
        """Mean scores of the largest, with their intervals over pairs."""
        shown = self.to_summary(most=_MOST_BARS)
        of = f"{len(shown)} largest of {len(self.names)}"
        return bars(
            shown, x="name", y="mean", low="low", high="high",
            title=f"Screen by {self.method}: the {of}, {self.direction[:-1]}ing",
            x_title="edge" if self.senders else "node", y_title="estimated change of the metric",
            caption=f"{self.provenance.caption} · estimates, not effects: {self.forward_passes} forward and "
            f"{self.backward_passes} backward passes",
        )  # fmt: skip

    def _columns(self) -> dict[str, Any]:
        if not self.senders:
            return {"name": self.names}
        kinds = tuple(edge.kind for edge in map(Edge, self.senders, self.receivers))
        return {"name": self.names, "sender": self.senders, "receiver": self.receivers, "kind": kinds}
