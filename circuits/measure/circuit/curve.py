"""Faithfulness over the size of a circuit, and its two areas, beside random scores.

    CPR = ∫ f dx        larger is better: the circuits keep (or exceed) the behaviour with few edges
    CMD = ∫ |1 − f| dx  smaller is better: the circuits do what the model does

x is the fraction of edges asked for, f the faithfulness over the set (ratio of means). Trapezoids between the sizes on a
linear scale, the default sizes MIB's: .1 .2 .5 1 2 5 10 20 50 100 %. As in MIB, a size x stands for ⌊x·n⌋ edges of all n,
every edge counts as one, dangling edges are left out after the choice without moving x, and nothing is added below the
smallest size, so that f = 1 throughout has CPR 0.999. Other than in MIB, a key or value edge of a key-value head counts once
(there: once per query head of its group), and a post-norm is a sender of its own: numbers of models that have either are not
those of MIB's leaderboard.
Source: Mueller et al., arXiv:2504.13151 (CPR: integrated circuit performance ratio; CMD: integrated circuit-model distance).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import lines
from circuits.engine.edges import Edge
from circuits.engine.edges.ablations import Ablation
from circuits.engine.edges.cut import Cuts
from circuits.engine.edges.grid import Grid
from circuits.errors import UndefinedError
from circuits.frames import long_frame
from circuits.measure.circuit.chosen import Circuit, Rank, Scores, largest, ranked
from circuits.measure.circuit.connected import grown
from circuits.measure.circuit.share import Gap, Numbers
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MIB_SIZES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Select = Literal["top", "greedy"]


@final
@dataclass(frozen=True, kw_only=True)
class SparsityCurve(Result):
    """The metric of one circuit per size, chosen by scores, and of circuits chosen by the same scores shuffled."""

    value: Float[Tensor, "pair cell"]
    null: Float[Tensor, "sample pair cell"]
    clean: Float[Tensor, " pair"]
    ablated: Float[Tensor, " pair"]
    sizes: tuple[float, ...]
    """Fractions of all edges, by cell."""
    asked: tuple[int, ...]
    """Edges that a size stands for."""
    n_edges: tuple[int, ...]
    """Edges kept, without the dangling ones."""
    n_null: tuple[float, ...]
    """The same under shuffled scores, mean over draws."""
    n_all: int
    scores: str
    chosen: str
    """`top, absolute`: how circuits are chosen by the scores."""
    ablation: Ablation

    def to_frame(self) -> pd.DataFrame:
        """One row per series (`scores`, `random 0`, …), pair and size: asked, value (metric), faithfulness (per pair)."""
        value = torch.cat([self.value[None], self.null])
        series = [self.scores, *(f"random {i}" for i in range(len(self.null)))]
        axes = {"series": series, "pair": list(range(len(self.value))), "size": list(self.sizes)}
        share = self._gap.per_pair(value.transpose(0, 1)).swapaxes(0, 1)
        columns = {"asked": np.array(self.asked), "value": value.double().numpy(), "faithfulness": share}
        return long_frame(axes, columns).assign(ablation=self.ablation, chosen=self.chosen)

    def to_summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per size: faithfulness over the set with interval over pairs, and mean and range of the random curves."""
        import pandas as pd

        gap, null = self._gap, self._null
        found = gap.intervals(gap.above(self.value), seed=seed)
        return pd.DataFrame([
            {"size": size, "asked": self.asked[i], "n_edges": self.n_edges[i], "ablation": self.ablation,
             "faithfulness": each.estimate, "low": each.low, "high": each.high, "n": each.n,
             "undefined": int((~gap.defined).sum()), "n_edges_random": self.n_null[i],
             "random": _of(np.mean, null[:, i]), "random_low": _of(np.min, null[:, i]),
             "random_high": _of(np.max, null[:, i])}
            for i, (size, each) in enumerate(zip(self.sizes, found, strict=True))
        ])  # fmt: skip

    def areas(self, *, seed: int = 0) -> pd.DataFrame:
        """CPR and CMD: value, interval over pairs, `method`, and the areas of the random curves.

        CPR has the BCa interval of a ratio of means; CMD, which is bent at f = 1, the plain percentiles of the same draws,
        whose noise only ever adds to it. `as_good`: of the random curves the share that is at least as good, this one
        counted in; NaN without any. `width` is the length of the x axis, the CPR of f = 1.
        """
        import pandas as pd

        gap = self._gap
        above = gap.above(self.value)
        size, weights = np.array(self.sizes), _weights(self.sizes)
        (cpr,) = gap.intervals((above @ weights)[:, None], seed=seed)
        point = above.sum(0) / gap.size.sum()
        low, high, method = np.nan, np.nan, "too few pairs share the gap: no interval"
        if np.isfinite(cpr.low):
            drawn = np.abs(1 - gap.drawn(above, seed=seed)) @ weights
            low, high = np.quantile(drawn, [0.025, 0.975])
            method = f"percentile bootstrap, {cpr.method.rpartition(', ')[2]}"
        null = {"CPR": self._null @ weights, "CMD": np.abs(1 - self._null) @ weights}
        cmd = float(np.abs(1 - point) @ weights)
        rows: list[dict[str, object]] = []
        for name, value, limits, how in (
            ("CPR", cpr.estimate, (cpr.low, cpr.high), cpr.method), ("CMD", cmd, (low, high), method),
        ):  # fmt: skip
            better = null[name] >= value if name == "CPR" else null[name] <= value
            as_good = (1 + int(better.sum())) / (1 + len(better)) if len(better) else np.nan
            rows.append({
                "area": name, "ablation": self.ablation, "value": value, "low": float(limits[0]), "high": float(limits[1]),
                "n": cpr.n, "random": _of(np.mean, null[name]), "random_low": _of(np.min, null[name]),
                "random_high": _of(np.max, null[name]), "as_good": as_good, "width": float(size[-1] - size[0]),
                "chosen": self.chosen, "method": how,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """The curve with its band over pairs, and the random curves' mean with their range."""
        import pandas as pd

        table = self.to_summary()
        names = [f"{100 * size:g} %" for size in self.sizes]
        parts = [table.assign(series=self.scores)]
        if len(self.null):
            shuffled = {"faithfulness": "random", "low": "random_low", "high": "random_high"}
            parts.append(table.assign(series="shuffled scores", **{to: table[of] for to, of in shuffled.items()}))
        shown = pd.concat([part.assign(edges=names) for part in parts], ignore_index=True)
        area = self.areas().set_index("area")["value"]
        return lines(
            shown, x="edges", y="faithfulness", color="series", low="low", high="high", reference={"whole model": 1.0},
            title=f"Faithfulness over size, {self.ablation} ablation (CPR {area['CPR']:.3f}, CMD {area['CMD']:.3f})",
            x_title=f"edges kept, of {self.n_all} ({self.chosen})", y_title="share of the gap (ratio of means)",
            caption=f"{self.provenance.caption} · bands: 95 % over pairs; range of {len(self.null)} shuffles",
        )  # fmt: skip

    @property
    def _gap(self) -> Gap:
        return Gap(self.clean, self.ablated, self.clusters, self.ablation)

    @property
    def _null(self) -> Numbers:
        """Faithfulness of the random curves, [sample, size]."""
        gap = self._gap
        return np.array([gap.above(one).sum(0) / gap.size.sum() for one in self.null]).reshape(-1, len(self.sizes))


def sparsity_curve(  # noqa: PLR0913  what is measured, how circuits are chosen, and against what
    model: Model, tokens: TokenPairs, metric: Metric, scores: Scores | Mapping[Edge, float], *,
    sizes: Sequence[float] = MIB_SIZES, rank: Rank = "absolute", select: Select = "top", ablation: Ablation = "resample",
    null_draws: int = 3, seed: int = 0, max_memory: int | None = None,
) -> SparsityCurve:  # fmt: skip
    """Choose one circuit per size (`select`: the largest scores, or EAP's greedy choice) and run each; metric units, fp32.

    `null_draws` times the scores are shuffled over the edges and the whole is done again. Every edge of the model needs a
    score. Raises SiteError for scores of another model, UndefinedError for scores that are not finite or miss an edge, and
    for sizes that do not ascend within 0 … 1 (nothing run yet); UndefinedError where no pair has a gap.
    """
    if len(sizes) < 2 or sizes[0] <= 0 or sizes[-1] > 1 or any(a >= b for a, b in pairwise(sizes)):
        raise UndefinedError(
            f"sizes {tuple(sizes)}: give two or more ascending fractions of the edges, above 0, up to 1"
        )
    if null_draws < 0 or select not in ("top", "greedy"):
        raise UndefinedError(f"select={select!r}, null_draws={null_draws}: select top or greedy, draw 0 or more times")
    grid = Grid(model)
    named = Scores.read(model, scores, grid)
    keys = ranked(model, named, rank, grid)
    if len(keys) < grid.n_edges:
        lacking = next(edge for edge in grid.edges() if edge not in keys)
        raise UndefinedError(
            f"{named.name}: {grid.n_edges - len(keys)} of {grid.n_edges} edges have no score ({lacking.label}, …), so that "
            "fractions of all edges are not defined; give 0 to those that count as nothing"
        )
    asked = [int(size * grid.n_edges + 1e-9) for size in sizes]
    rng = np.random.default_rng(seed)
    series = [keys]
    for _ in range(null_draws):
        shuffled = rng.permutation(np.array(list(keys.values())))
        series.append(dict(zip(keys, shuffled.tolist(), strict=True)))
    circuits = [
        [Circuit.of(model, grown(grid, one, n) if select == "greedy" else largest(one, n), grid=grid) for n in asked]
        for one in series
    ]
    cuts = Cuts(model, tokens, metric, ablation=ablation, max_memory=max_memory)
    source = provenance(model, tokens, metric, cuts.line)
    _ = Gap(cuts.clean, cuts.ablated, source.clusters or None, ablation).defined
    value = cuts.run([circuit.edges for each in circuits for circuit in each])
    value = value.unflatten(0, (len(series), len(asked))).transpose(1, 2).contiguous()
    null = np.array([[len(circuit) for circuit in each] for each in circuits[1:]], float).reshape(-1, len(asked))
    return SparsityCurve(
        provenance=source, value=value[0], null=value[1:], clean=cuts.clean, ablated=cuts.ablated, sizes=tuple(sizes),
        asked=tuple(asked), n_edges=tuple(map(len, circuits[0])),
        n_null=tuple(_of(np.mean, column) for column in null.T), n_all=grid.n_edges, scores=named.name,
        chosen=f"{select}, {rank}", ablation=ablation,
    )  # fmt: skip


def _weights(sizes: Sequence[float]) -> Numbers:
    """What each point counts in the sum of trapezoids."""
    step = np.diff(np.array(sizes, float))
    return (np.append(step, 0.0) + np.append(0.0, step)) / 2


def _of(f: Callable[[Numbers], Any], values: Numbers) -> float:
    """A mean or limit of the random curves; NaN without any."""
    return float(f(values)) if len(values) else float("nan")
