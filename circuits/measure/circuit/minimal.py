"""Minimality: how much faithfulness goes with each edge, or node, of a circuit.

    change = (m(C) − m(C − e))/(m(M) − m(∅))    over the set: the ratio of means

A part whose change is zero is not needed, given the others: two parts that do the same each seem superfluous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine.edges.ablations import Ablation
from circuits.engine.edges.cut import Cuts
from circuits.errors import UndefinedError
from circuits.frames import ROUNDING, long_frame
from circuits.measure.circuit.chosen import Circuit, check_model
from circuits.measure.circuit.share import Gap
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.stats import max_t_test
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Part = Literal["edges", "nodes"]
_MOST_BARS = 24


@final
@dataclass(frozen=True, kw_only=True)
class Minimality(Result):
    """The metric of a circuit and of it without one part."""

    value: Float[Tensor, " pair"]
    without: Float[Tensor, "pair cell"]
    clean: Float[Tensor, " pair"]
    ablated: Float[Tensor, " pair"]
    parts: tuple[str, ...]
    """The edge (`L2.H6 → metric`) or node (`L2.H6`) taken out, by cell; of a node every edge that it sends."""
    of: Part
    circuit: str
    ablation: Ablation

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and part: value (metric of the whole circuit), without (of the rest), change (per pair)."""
        value = self.value.double().numpy()[:, None]
        change = self._gap.per_pair(self.value[:, None]) - self._gap.per_pair(self.without)
        axes = {"pair": list(range(len(value))), "part": list(self.parts)}
        columns = {"value": value, "without": self.without.double().numpy(), "change": change}
        return long_frame(axes, columns).assign(of=self.of, ablation=self.ablation)

    def to_summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per part, the largest change first: change of faithfulness with interval, p over all parts, `survives`.

        p: signs of whole pairs (or clusters) flipped, max-T over the parts; NaN where too few pairs allow none, `note` says
        so. Changes of at most rounding are zeros to the test.
        """
        import pandas as pd

        gap = self._gap
        lost = gap.difference(self.value[:, None], self.without)
        intervals = gap.intervals(lost, seed=seed)
        small = ROUNDING * np.abs(gap.size).mean()
        tested = max_t_test(np.where(np.abs(lost) > small, lost, 0.0), clusters=gap.names, seed=seed)
        table = pd.DataFrame([
            {"part": part, "of": self.of, "ablation": self.ablation, "change": i.estimate, "low": i.low, "high": i.high,
             "n": i.n, "p": t.p if t.reachable() or t.n == t.zeros else np.nan, "survives": t.significant(),
             "note": t.note()}
            for part, i, t in zip(self.parts, intervals, tested, strict=True)
        ])  # fmt: skip
        return table.sort_values("change", key=lambda c: -c.abs(), kind="stable").reset_index(drop=True)

    def figure(self) -> go.Figure:
        """The parts that change most."""
        table = self.to_summary().head(_MOST_BARS)
        return bars(
            table, x="part", y="change", color="of", low="low", high="high",
            title=f"Faithfulness lost with one of {len(self.parts)} {self.of}, {self.ablation} ablation of the other edges",
            x_title=f"taken out of the circuit: {self.of}", y_title="change (share of the gap)",
            caption=f"{self.provenance.caption} · {self.circuit}",
        )  # fmt: skip

    @property
    def _gap(self) -> Gap:
        return Gap(self.clean, self.ablated, self.clusters, self.ablation)


def minimality(
    model: Model, tokens: TokenPairs, metric: Metric, circuit: Circuit, *, of: Part = "edges",
    ablation: Ablation = "resample", max_memory: int | None = None,
) -> Minimality:  # fmt: skip
    """Run a circuit, and it without each of its edges (or nodes); units of the metric, fp32.

    Circuits that part late share what comes before. Raises SiteError for a circuit of another model, UndefinedError for an
    empty one (nothing run yet) or where no pair has a gap.
    """
    check_model(model, [circuit])
    if of == "edges":
        rest = {edge.label: circuit.edges - {edge} for edge in sorted(circuit.edges)}
    elif of == "nodes":
        rest = {node: circuit.without(node) for node in circuit.nodes}
    else:
        raise UndefinedError(f"of={of!r}: take out edges or nodes")
    if not rest:
        raise UndefinedError(f"the circuit has no {of} to take out: {circuit}")
    cuts = Cuts(model, tokens, metric, ablation=ablation, max_memory=max_memory)
    source = provenance(model, tokens, metric, cuts.line)
    _ = Gap(cuts.clean, cuts.ablated, source.clusters or None, ablation).defined
    whole, *without = cuts.run([circuit.edges, *rest.values()]).unbind()
    return Minimality(
        provenance=source, value=whole, without=torch.stack(without, 1), clean=cuts.clean, ablated=cuts.ablated,
        parts=tuple(rest), of=of, circuit=repr(circuit), ablation=ablation,
    )  # fmt: skip
