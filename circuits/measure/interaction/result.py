"""What was measured of every component and every two of them, as frames and figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from circuits.draw import bars, heatmap
from circuits.errors import UndefinedError
from circuits.frames import fraction, long_frame
from circuits.measure.interaction import rules
from circuits.measure.interaction.rules import COLUMNS, DIRECTIONS, TERMS
from circuits.result import Result
from circuits.sites import ORDER, parse
from circuits.stats import Interval, max_t, mean_intervals

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_MOST_BARS = 20


@final
@dataclass(frozen=True, kw_only=True)
class Interactions(Result):
    """Metric of both runs with one component replaced, and with two; the last cells are pairs drawn at random."""

    noised: Float[Tensor, "pair cell"]
    """The clean run's metric, activations from the corrupt one."""
    denoised: Float[Tensor, "pair cell"]
    clean: Float[Tensor, " pair"]
    corrupt: Float[Tensor, " pair"]
    cells: tuple[tuple[str, ...], ...]
    """Components replaced, by cell: singles, then the pairs asked for, then random ones."""
    kinds: tuple[str, ...]
    """Kinds and positions of a cell's components: what a random pair has in common with its own."""
    n_components: int
    n_singles: int
    """Components of random pairs are run alone too."""
    n_pairs_measured: int
    threshold: float
    alpha: float
    seed: int

    @property
    def cost(self) -> int:
        """Cells that were run, both directions together."""
        return 2 * len(self.cells)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of prompts, direction and cell: a, b ("" for one alone), null, value (metric), fraction."""
        value = np.stack([self.noised.double().numpy(), self.denoised.double().numpy()], 1)
        axes = {"pair": list(range(len(value))), "direction": list(DIRECTIONS), "cell": list(range(len(self.cells)))}
        frame = long_frame(axes, {"value": value, "fraction": self._fractions})
        names = [(*cell, "")[:2] for cell in self.cells]
        measured = {*range(self.n_components)} | {*self._measured}
        where = frame["cell"].to_numpy()
        return frame.assign(
            a=[names[i][0] for i in where], b=[names[i][1] for i in where], null=[i not in measured for i in where]
        )

    def to_components(self) -> pd.DataFrame:
        """One row per component and direction: mean fraction with interval, n, and what it does alone (`effect`).

        `positive`: noising it lowers the metric towards the corrupt run; `negative`: it raises the metric; `none`: within
        ±threshold; else `undecided`. Under denoising likewise, with the sign of what is found again.
        """
        import pandas as pd

        defined = self._defined
        columns = defined[:, :, : self.n_components].reshape(len(defined), -1)
        found = mean_intervals(columns, self._kept_clusters, seed=self.seed)
        names = [(direction, cell[0]) for direction in DIRECTIONS for cell in self.cells[: self.n_components]]
        return pd.DataFrame([
            {"component": name, "direction": direction, "mean": i.estimate, "low": i.low, "high": i.high, "n": i.n,
             "effect": self._effect(i)}
            for (direction, name), i in zip(names, found, strict=True)
        ])  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row per pair of components: label and reason, every term with its interval, p values, and the null.

        For labels with an order, a comes first: `chain` a acts through b, `backup` b stands in for a, `negative` b
        opposes a. `p`: sign flips over prompt pairs, max-T over all pairs of components and both directions. `null`: of
        random pairs of the same kinds, the share whose interaction is at least as large. `survives`: p at most alpha and
        the interval beyond ±threshold. `n`: prompt pairs with a gap.
        """
        import pandas as pd

        columns = self._terms(self._measured)
        of = self._kept_clusters
        flat = mean_intervals(columns.reshape(len(columns), -1), of, seed=self.seed)
        at = [TERMS.index("interaction") + len(TERMS) * d for d in range(len(DIRECTIONS))]
        p = max_t(columns[:, :, at].reshape(len(columns), -1), clusters=of, seed=self.seed).reshape(-1, len(DIRECTIONS))
        null = self._null()
        rows: list[dict[str, Any]] = []
        for i, cell in enumerate(self._measured):
            found = dict(zip(COLUMNS, flat[i * len(COLUMNS) : (i + 1) * len(COLUMNS)], strict=True))
            a, b = self.cells[cell]
            said = rules.name(found, p=float(p[i, 0]), later=_later(a, b), threshold=self.threshold, alpha=self.alpha)
            if said.swapped:
                a, b, found = b, a, rules.swapped(found)
            row: dict[str, Any] = {"a": a, "b": b, "label": said.label, "n": len(columns)}
            for d, direction in enumerate(DIRECTIONS):
                survives = p[i, d] <= self.alpha and rules.holds(
                    found[f"{direction}_interaction"], "not zero", self.threshold
                )
                row |= _spread(found, direction) | {
                    f"{direction}_p": float(p[i, d]),
                    f"{direction}_survives": bool(survives),
                }
                others = null.get(self.kinds[cell], np.zeros((0, 2)))[:, d]
                row[f"{direction}_null"] = rules.share_beyond(found[f"{direction}_interaction"].estimate, others)
            rows.append(row | {"null_pairs": len(null.get(self.kinds[cell], ())), "reason": said.reason})
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Interaction of every two components under noising and denoising; a dot where it is beyond ±threshold."""
        import pandas as pd

        table = self.to_summary()
        parts = [
            pd.DataFrame({
                "a": table[x], "b": table[y], "direction": f"{direction[:-1]}ing",
                "mean": table[f"{direction}_interaction"], "low": table[f"{direction}_interaction_low"],
                "high": table[f"{direction}_interaction_high"], "survives": table[f"{direction}_survives"],
            })
            for direction in DIRECTIONS for x, y in (("a", "b"), ("b", "a"))
        ]  # fmt: skip
        order = [cell[0] for cell in self.cells[: self.n_components]]
        shown = pd.concat(parts, ignore_index=True)
        shown = shown.assign(a=pd.Categorical(shown["a"], order), b=pd.Categorical(shown["b"], order))
        return heatmap(
            shown, x="b", y="a", value="mean", facet="direction", low="low", high="high",
            marked="survives", title="Interaction: both together minus each alone", x_title="one component",
            y_title="the other", unit="share of the gap", quantile=1.0, caption=self.provenance.caption,
        )  # fmt: skip

    def labels_figure(self) -> go.Figure:
        """Interaction of the pairs that are not independent, with their labels (else of all), the largest first."""
        import pandas as pd

        table = self.to_summary()
        named = table[table["label"] != "independent"]
        table = named if len(named) else table
        size = table[[f"{d}_interaction" for d in DIRECTIONS]].abs().max(axis=1)
        table = table.loc[size.sort_values(ascending=False, kind="stable").index[:_MOST_BARS]]
        names = table["label"] + " " + table["a"] + " " + table["b"]
        parts = [
            pd.DataFrame({
                "pair": names, "direction": f"{d[:-1]}ing", "mean": table[f"{d}_interaction"],
                "low": table[f"{d}_interaction_low"], "high": table[f"{d}_interaction_high"],
            })
            for d in DIRECTIONS
        ]  # fmt: skip
        return bars(
            pd.concat(parts, ignore_index=True), x="pair", y="mean", color="direction", low="low", high="high",
            title="Pairs of components not found independent", x_title="label, components",
            y_title="both minus each alone (share of the gap)", caption=self.provenance.caption,
        )  # fmt: skip

    @property
    def _measured(self) -> range:
        return range(self.n_singles, self.n_singles + self.n_pairs_measured)

    @cached_property
    def _fractions(self) -> NDArray[Any]:
        """[pair, direction, cell]; NaN for pairs without a gap."""
        clean, corrupt = self.clean.double().numpy(), self.corrupt.double().numpy()
        noise = fraction(self.noised.double().numpy(), clean, corrupt)
        return np.stack([noise, fraction(self.denoised.double().numpy(), corrupt, clean)], 1)

    @cached_property
    def _defined(self) -> NDArray[Any]:
        """Of the pairs that have a gap. Raises UndefinedError where they are fewer than two."""
        kept = self._fractions[self._have_a_gap]
        if len(kept) < 2:
            raise UndefinedError(
                f"{len(kept)} of {len(self.clean)} pairs have a gap between their clean and corrupt metric; two are needed"
            )
        return kept

    @property
    def _have_a_gap(self) -> Any:
        return np.isfinite(self._fractions).all((1, 2))

    @property
    def _kept_clusters(self) -> list[int] | None:
        """Of the pairs in `_defined`."""
        if self.clusters is None:
            return None
        return [name for name, kept in zip(self.clusters, self._have_a_gap, strict=True) if kept]

    def _terms(self, cells: range) -> NDArray[Any]:
        """[pair, cell, column] in the order of COLUMNS."""
        single = {cell[0]: i for i, cell in enumerate(self.cells[: self.n_singles])}
        found = self._defined
        return np.stack([
            np.stack([
                term for d in range(len(DIRECTIONS))
                for term in rules.terms(*(found[:, d, i] for i in (*(single[c] for c in self.cells[cell]), cell)))
            ], -1)
            for cell in cells
        ], 1)  # fmt: skip

    def _null(self) -> dict[str, NDArray[Any]]:
        """Kinds -> mean interaction of random pairs of these kinds, [cell, direction]."""
        cells = range(self._measured.stop, len(self.cells))
        if not cells:
            return {}
        at = [TERMS.index("interaction") + len(TERMS) * d for d in range(len(DIRECTIONS))]
        means = self._terms(cells)[:, :, at].mean(0)
        kinds = np.array([self.kinds[cell] for cell in cells])
        return {kind: means[kinds == kind] for kind in dict.fromkeys(kinds.tolist())}

    def _effect(self, interval: Interval) -> str:
        names = {"zero": "none", "above": "positive", "below": "negative"}
        return next(
            (names[t] for t in ("zero", "above", "below") if rules.holds(interval, t, self.threshold)), "undecided"
        )


def _spread(found: dict[str, Interval], direction: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for term in TERMS:
        name = f"{direction}_{term}"
        row |= {name: found[name].estimate, f"{name}_low": found[name].low, f"{name}_high": found[name].high}
    return row


def _later(a: str, b: str) -> int:
    """+1 where b stands after a in the forward pass, −1 where before, 0 where side by side."""
    first, second = ((s.layer, ORDER[s.kind]) for s in (parse(label.partition("@")[0]) for label in (a, b)))
    return (second > first) - (second < first)
