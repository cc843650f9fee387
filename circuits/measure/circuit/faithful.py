"""Faithfulness: the metric of circuits with every other edge cut, and of what they leave.

A circuit that does what the model does has faithfulness 1; its complement M − C, the edges it leaves out run alone, then has
little: what is left there the circuit lacks, or does a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine.edges.ablations import Ablation
from circuits.engine.edges.cut import Cuts
from circuits.errors import UndefinedError
from circuits.frames import long_frame
from circuits.measure.circuit.chosen import Circuit, check_model
from circuits.measure.circuit.share import Gap
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PARTS = ("circuit", "complement")


@final
@dataclass(frozen=True, kw_only=True)
class Faithfulness(Result):
    """The metric of circuits and of their complements, of the clean run and of the ablation run."""

    value: Float[Tensor, "pair cell"]
    complement: Float[Tensor, "pair cell"]
    """All edges but the circuit's; not pruned."""
    clean: Float[Tensor, " pair"]
    ablated: Float[Tensor, " pair"]
    """No edge kept."""
    names: tuple[str, ...]
    n_edges: tuple[int, ...]
    said: tuple[str, ...]
    """How each circuit was chosen."""
    n_all: int
    ablation: Ablation

    def to_frame(self) -> pd.DataFrame:
        """One row per pair, circuit and part: n_edges, ablation, value, clean, ablated (metric), faithfulness (per pair)."""
        value = np.stack([self.value.double().numpy(), self.complement.double().numpy()], -1)
        both = self._gap
        per_pair = np.stack([both.per_pair(self.value), both.per_pair(self.complement)], -1)
        clean, ablated = (t.double().numpy()[:, None, None] for t in (self.clean, self.ablated))
        n_edges = np.stack([np.array(self.n_edges), self.n_all - np.array(self.n_edges)], -1)[None]
        axes = {"pair": list(range(len(value))), "circuit": list(self.names), "part": list(PARTS)}
        columns = {"n_edges": n_edges, "value": value, "clean": clean, "ablated": ablated, "faithfulness": per_pair}
        return long_frame(axes, columns).assign(ablation=self.ablation)

    def to_summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per circuit and part: faithfulness over the set (ratio of means) with interval, n and undefined pairs.

        `mean_of_pairs` is the mean of the pairs' own faithfulness. `ablation` names what was cut to.
        """
        import pandas as pd

        gap = self._gap
        rows: list[dict[str, object]] = []
        for part, value in zip(PARTS, (self.value, self.complement), strict=True):
            own = gap.per_pair(value)[gap.defined].mean(0)
            for i, found in enumerate(gap.intervals(gap.above(value), seed=seed)):
                kept = self.n_edges[i] if part == "circuit" else self.n_all - self.n_edges[i]
                rows.append({
                    "circuit": self.names[i], "part": part, "ablation": self.ablation, "n_edges": kept,
                    "faithfulness": found.estimate, "low": found.low, "high": found.high, "mean_of_pairs": float(own[i]),
                    "n": found.n, "undefined": int((~gap.defined).sum()), "said": self.said[i], "method": found.method,
                })  # fmt: skip
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Faithfulness of circuits and of their complements, with the whole model's line."""
        table = self.to_summary()
        return bars(
            table, x="circuit", y="faithfulness", color="part", low="low", high="high", threshold=1.0,
            title=f"Faithfulness of circuits, {self.ablation} ablation of the other edges",
            x_title="circuit", y_title="share of the gap (ratio of means)", caption=self.provenance.caption,
        )  # fmt: skip

    @property
    def _gap(self) -> Gap:
        return Gap(self.clean, self.ablated, self.clusters, self.ablation)


def evaluate(
    model: Model, tokens: TokenPairs, metric: Metric, circuits: Circuit | Mapping[str, Circuit], *,
    ablation: Ablation = "resample", max_memory: int | None = None,
) -> Faithfulness:  # fmt: skip
    """Run circuits and their complements; units of the metric, fp32.

    `ablation`: resample (the pair's corrupt run), mean (over the corrupt prompts, by column) or zero. Raises SiteError for a
    circuit of another model and UndefinedError without circuits (nothing run yet), UndefinedError where no pair has a gap
    (no circuit run yet), AuditError as `Cuts` does.
    """
    named = {"circuit": circuits} if isinstance(circuits, Circuit) else dict(circuits)
    if not named:
        raise UndefinedError("no circuit given")
    check_model(model, list(named.values()))
    cuts = Cuts(model, tokens, metric, ablation=ablation, max_memory=max_memory)
    source = provenance(model, tokens, metric, cuts.line)
    _ = Gap(cuts.clean, cuts.ablated, source.clusters or None, ablation).defined
    every = frozenset(cuts.grid.edges())
    kept = [circuit.edges for circuit in named.values()]
    value = cuts.run([*kept, *(every - edges for edges in kept)]).T.contiguous()
    return Faithfulness(
        provenance=source, value=value[:, : len(kept)], complement=value[:, len(kept) :], clean=cuts.clean,
        ablated=cuts.ablated, names=tuple(named), n_edges=tuple(map(len, kept)),
        said=tuple(map(repr, named.values())), n_all=cuts.grid.n_edges, ablation=ablation,
    )  # fmt: skip
