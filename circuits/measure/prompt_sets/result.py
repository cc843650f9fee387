"""What directions from several sets of partners have in common, and its tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import bars, lines
from circuits.errors import UndefinedError
from circuits.frames import long_frame
from circuits.result import Result
from circuits.stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SETS: Final = ("matched", "shuffled", "unmatched")


@final
@dataclass(frozen=True, kw_only=True)
class PromptSets(Result):
    """Cosine with the matched difference of means of every direction: one `cell` per set, estimator, size and seed."""

    reference: Float[Tensor, "layer d_model"]
    """The matched difference of means of all pairs; NaN: undefined layers."""
    cosine: Float[Tensor, "cell layer"]
    resampled: Float[Tensor, "cell layer"]
    """The same with the pairs, and the other prompts, drawn again; NaN for directions from some of the pairs."""
    null_cosine: Float[Tensor, "direction layer"]
    """Random directions with the reference."""
    used: Bool[Tensor, "cell pair"]
    """Which pairs the cell's direction is made from."""
    sets: tuple[str, ...]
    """Of every cell, as are the next three."""
    estimators: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    identity: float
    """Largest deviation, as a share of its norm, of a shuffled difference of means from the matched one: rounding."""
    excluded: int
    """Other prompts left out because they are partners of a pair."""
    layer: int | None = None
    """Whose directions were ablated, everywhere; None where no effect was measured."""
    effect: Float[Tensor, "cell pair"] | None = None
    """Metric of each clean prompt with the direction ablated; NaN for seeds that were not run."""
    null_effect: Float[Tensor, "direction pair"] | None = None
    clean: Float[Tensor, " pair"] | None = None
    corrupt: Float[Tensor, " pair"] | None = None

    @property
    def undefined(self) -> tuple[int, ...]:
        """Layers without a matched difference of means."""
        return tuple(self.reference.isnan().any(-1).nonzero()[:, 0].tolist())

    def _cells(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            {
                "cell": range(len(self.sets)),
                "set": self.sets,
                "estimator": self.estimators,
                "size": self.sizes,
                "seed": self.seeds,
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per set, estimator, size, seed and layer: cosine, and resampled where the size is all pairs."""
        n, layers = self.cosine.shape
        columns = {"cosine": self.cosine.numpy(), "resampled": self.resampled.numpy()}
        return self._cells().merge(
            long_frame({"cell": list(range(n)), "layer": list(range(layers))}, columns), on="cell"
        )

    def to_summary(self) -> pd.DataFrame:
        """One row per set, estimator, size and layer: mean cosine over seeds, low, high, and what those are.

        From all pairs: pairs drawn again with replacement (`over` "pairs"). From some: the 95 % range over the subsets
        (`over` "subsets"). null: 95 % of |cosine| of random directions. Draws repeat prompts and so agree a little less than
        the prompts themselves: `high` may lie just under the cosine.
        """
        import pandas as pd

        null = np.quantile(self.null_cosine.abs().numpy(), 0.95, axis=0)
        most, rows = max(self.sizes), list[dict[str, Any]]()
        keys = ["set", "estimator", "size", "layer"]
        for (name, estimator, size, layer), part in self.to_frame().groupby(keys, sort=False):
            drawn = part["resampled" if size == most else "cosine"].to_numpy(float)
            low, high = np.quantile(drawn, [0.025, 0.975])
            rows.append({
                "set": name, "estimator": estimator, "size": size, "layer": layer, "cosine": part["cosine"].mean(),
                "low": low, "high": high, "over": "pairs" if size == most else "subsets", "null": null[part["layer"].iloc[0]],
            })  # fmt: skip
        return pd.DataFrame(rows)

    def loss_frame(self) -> pd.DataFrame:
        """One row per set but matched, estimator, size and layer: matched − this cosine (`loss`), of the same draws.

        Sizes of some pairs are on equal terms; the interval is the 95 % range over draws, as in `to_summary`.
        """
        import pandas as pd

        frame, most, keys = self.to_frame(), max(self.sizes), ["estimator", "size", "seed", "layer"]
        frame = frame.assign(drawn=frame["resampled"].where(frame["size"] == most, frame["cosine"]))
        own = frame[frame["set"] == "matched"].set_index(keys)
        rows: list[dict[str, Any]] = []
        for name in SETS[1:]:
            other = frame[frame["set"] == name].set_index(keys)
            both = (own[["cosine", "drawn"]] - other[["cosine", "drawn"]]).reset_index()
            for (estimator, size, layer), part in both.groupby(["estimator", "size", "layer"], sort=False):
                low, high = np.quantile(part["drawn"].to_numpy(float), [0.025, 0.975])
                rows.append({
                    "set": name, "estimator": estimator, "size": size, "layer": layer, "loss": part["cosine"].mean(),
                    "low": low, "high": high,
                })  # fmt: skip
        return pd.DataFrame(rows)

    def effect_summary(self) -> pd.DataFrame:
        """One row per set, estimator and size: share of the clean − corrupt gap that ablation removes, over pairs.

        Averaged over seeds; pairs a direction was made from are left out where there are others (`held_out`). null_low and
        null_high: 95 % of random directions. Raises UndefinedError where no effect was measured.
        """
        import pandas as pd

        if self.effect is None or self.null_effect is None or self.clean is None or self.corrupt is None:
            raise UndefinedError("no effect was measured; give compare_prompt_sets a metric and the layer to ablate")
        gap = float((self.clean - self.corrupt).mean())
        removed = ((self.clean - self.effect) / gap).double().numpy()
        null = ((self.clean - self.null_effect).mean(-1) / gap).double().numpy()
        low, high = np.quantile(null, [0.025, 0.975])
        rows: list[dict[str, Any]] = []
        for (name, estimator, size), part in self._cells().groupby(["set", "estimator", "size"], sort=False):
            cells = part["cell"].to_numpy()
            cells = cells[np.isfinite(removed[cells]).all(1)]
            held = not bool(self.used[cells].all())
            seen = np.ma.masked_array(removed[cells], mask=self.used[cells].numpy() & held)
            there = np.asarray(~np.ma.getmaskarray(seen).all(axis=0))
            of = None if self.clusters is None else np.asarray(self.clusters)[there].tolist()
            share = mean_interval(np.asarray(seen.mean(axis=0)[there], dtype=float), of)
            rows.append({
                "set": name, "estimator": estimator, "size": size, "removed": share.estimate, "low": share.low,
                "high": share.high, "n": share.n, "seeds": len(cells), "held_out": held, "null_low": low, "null_high": high,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Cosine with the matched difference of means by layer, from all pairs; a panel for every estimator."""
        table = self.to_summary()
        return lines(
            table[table["size"] == max(self.sizes)], x="layer", y="cosine", color="set", facet="estimator", low="low",
            high="high", title="Directions by partners and estimator, against the matched difference of means",
            x_title="layer entered", y_title="cosine", caption=self._said,
        )  # fmt: skip

    def size_figure(self, layer: int) -> go.Figure:
        """Cosine at one layer by the number of pairs, with the matched difference of means of the other pairs."""
        table = self.to_summary()
        table = table[(table["layer"] == layer) & (table["size"] < max(self.sizes))]
        return lines(
            table, x="size", y="cosine", color="set", facet="estimator", low="low", high="high",
            title=f"Directions from some pairs, against the other pairs' difference of means, entering layer {layer}",
            x_title="pairs", y_title="cosine", caption=f"{self._said} · band: 95 % of subsets",
        )  # fmt: skip

    def effect_figure(self) -> go.Figure:
        """What ablating each kind of direction removes of the metric's gap."""
        table = self.effect_summary()
        return bars(
            table[table["size"] == max(self.sizes)], x="estimator", y="removed", color="set", low="low", high="high",
            title=f"Ablating the direction of layer {self.layer} everywhere, clean prompts", x_title="estimator",
            y_title="share of the metric's gap removed", threshold=float(table["null_high"].iloc[0]),
            threshold_name="random, 97.5 %",
            caption=f"{self._said} · line: 97.5 % of random directions",
        )  # fmt: skip

    @property
    def _said(self) -> str:
        none = (
            f" · no direction at layer {', '.join(map(str, self.undefined))}: all prompts alike"
            if self.undefined
            else ""
        )
        left = f" · {self.excluded} other prompts left out: they are partners" if self.excluded else ""
        same = f" · a difference of means does not depend on the pairing (checked: {self.identity:.0e})"
        return f"{self.provenance.caption}{same}{left}{none}"
