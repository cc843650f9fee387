"""Completeness: a circuit should lose what the model loses when the same nodes are taken out of both.

    incompleteness(K) = |F(C − K) − F(M − K)| / (m(M) − m(∅))    over the set: of the mean metrics

K are nodes of the circuit; taken out, nothing reads what they write. A circuit that left a backup out loses more than the
model does. F is the mean metric; the share of the gap makes it comparable.
Source: Wang et al., arXiv:2211.00593.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from jaxtyping import Float
from torch import Tensor

from circuits.draw import scatter
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


@final
@dataclass(frozen=True, kw_only=True)
class Completeness(Result):
    """The metric of a circuit and of the model, each without the same nodes; the first set is empty."""

    of_circuit: Float[Tensor, "pair cell"]
    of_model: Float[Tensor, "pair cell"]
    clean: Float[Tensor, " pair"]
    ablated: Float[Tensor, " pair"]
    taken: tuple[tuple[str, ...], ...]
    """The nodes taken out, by cell."""
    circuit: str
    ablation: Ablation

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and set of nodes: taken, of_circuit, of_model (metric)."""
        axes = {"pair": list(range(len(self.clean))), "set": list(range(len(self.taken)))}
        columns = {name: getattr(self, name).double().numpy() for name in ("of_circuit", "of_model")}
        frame = long_frame(axes, columns)
        return frame.assign(taken=[" ".join(self.taken[i]) for i in frame["set"]], ablation=self.ablation)

    def to_summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per set: mean metrics, difference as a share of the gap with its interval, `incompleteness` its size."""
        import pandas as pd

        gap = Gap(self.clean, self.ablated, self.clusters, self.ablation)
        found = gap.intervals(gap.difference(self.of_circuit, self.of_model), seed=seed)
        circuit, model = (t.double().numpy()[gap.defined].mean(0).tolist() for t in (self.of_circuit, self.of_model))
        return pd.DataFrame([
            {"set": i, "taken": " ".join(self.taken[i]), "n_taken": len(self.taken[i]), "ablation": self.ablation,
             "of_circuit": circuit[i], "of_model": model[i], "difference": each.estimate, "low": each.low,
             "high": each.high, "incompleteness": abs(each.estimate), "n": each.n}
            for i, each in enumerate(found)
        ])  # fmt: skip

    def figure(self) -> go.Figure:
        """Metric of the circuit against that of the model, a point per set; a complete circuit lies on the diagonal."""
        table = self.to_summary()
        kinds = table["n_taken"].map(lambda n: "nothing taken out" if n == 0 else "random nodes taken out")
        return scatter(
            table.assign(kind=kinds, text=table["taken"]), x="of_model", y="of_circuit", color="kind",
            title=f"Completeness: the same nodes out of model and circuit, {self.ablation} ablation",
            x_title="mean metric of the model without them", y_title="mean metric of the circuit without them",
            caption=f"{self.provenance.caption} · {self.circuit}",
        )  # fmt: skip


def completeness(
    model: Model, tokens: TokenPairs, metric: Metric, circuit: Circuit, *, draws: int = 20,
    ablation: Ablation = "resample", seed: int = 0, max_memory: int | None = None,
) -> Completeness:  # fmt: skip
    """Take the empty set and `draws` random sets of the circuit's nodes (each node with odds of one half) out of both.

    Units of the metric, fp32. Raises SiteError for a circuit of another model, UndefinedError for one without nodes or fewer
    than one draw (nothing run yet), or where no pair has a gap.
    """
    check_model(model, [circuit])
    nodes, rng = circuit.nodes, random.Random(seed)  # noqa: S311  not for secrets
    if not nodes or draws < 1:
        raise UndefinedError(f"{draws} sets of {len(nodes)} nodes; completeness takes one of each at least: {circuit}")
    taken: list[tuple[str, ...]] = [()]
    for _ in range(draws):
        drawn = tuple(node for node in nodes if rng.random() < 0.5)
        taken.append(drawn or (rng.choice(nodes),))
    cuts = Cuts(model, tokens, metric, ablation=ablation, max_memory=max_memory)
    source = provenance(model, tokens, metric, cuts.line)
    _ = Gap(cuts.clean, cuts.ablated, source.clusters or None, ablation).defined
    whole = Circuit.of(model, cuts.grid.edges(), grid=cuts.grid)
    value = cuts.run([part.without(*out) for part in (circuit, whole) for out in taken]).T.contiguous()
    return Completeness(
        provenance=source, of_circuit=value[:, : len(taken)], of_model=value[:, len(taken) :], clean=cuts.clean,
        ablated=cuts.ablated, taken=tuple(taken), circuit=repr(circuit), ablation=ablation,
    )  # fmt: skip
