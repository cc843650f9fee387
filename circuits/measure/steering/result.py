"""What came of a sweep of doses: per prompt and dose, metric, completion, refusal and the judge's scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import bars, heatmap, lines
from circuits.errors import UndefinedError
from circuits.frames import records, summary
from circuits.result import Result
from circuits.stats import rate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BASELINE: Final = "no edit"


@final
@dataclass(frozen=True, kw_only=True)
class Steering(Result):
    """The axis `setting` is the unedited model, then the doses in order."""

    metric: Float[Tensor, "pair dose"]
    base: Float[Tensor, " pair"]
    """The metric without an edit."""
    refused: Bool[Tensor, "setting pair"]
    """By phrases."""
    score: Float[Tensor, "setting pair score"]
    """The judge's; NaN where missing."""
    scores: tuple[str, ...]
    """Names of the judge's scores."""
    missing: dict[int, str]
    """setting · pairs + pair -> why the judge's score is missing."""
    cost: str
    """What the judging cost, in one line."""
    completions: tuple[tuple[str, ...], ...]
    """[setting][pair]."""
    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    """Of each prompt."""
    doses: tuple[str, ...]
    layers: tuple[int | None, ...]
    coefficients: tuple[float | None, ...]
    series: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per setting and prompt: the dose, metric, change of the metric, refusal, scores, completion."""
        import pandas as pd

        n, base = len(self.prompts), self.base.double().numpy()
        value = np.concatenate([base[None], self.metric.T.double().numpy()])
        rows = [
            {
                "dose": dose, "series": series, "layer": layer, "coefficient": coefficient, "pair": i, "label": self.labels[i],
                "metric": value[s, i], "change": value[s, i] - base[i], "refused": bool(self.refused[s, i]),
                **{name: float(self.score[s, i, k]) for k, name in enumerate(self.scores)},
                "missing": self.missing.get(s * n + i, ""), "prompt": self.prompts[i], "completion": self.completions[s][i],
            }
            for s, (dose, series, layer, coefficient) in enumerate(self._settings())
            for i in range(n)
        ]  # fmt: skip
        return pd.DataFrame(rows).astype({"layer": "Int64"})

    def _settings(self) -> list[tuple[str, str, int | None, float | None]]:
        rows = zip(self.doses, self.series, self.layers, self.coefficients, strict=True)
        return [(BASELINE, BASELINE, None, None), *rows]

    def to_summary(self) -> pd.DataFrame:
        """One row per setting, in order: metric, its change, every score, share refused; missing scores are counted.

        Means over prompts with 95 % intervals (of rates: Wilson, or over templates).
        """
        frame = self.to_frame()
        named = [name for name, *_ in self._settings()]
        table = frame[["dose", "series", "layer", "coefficient"]].drop_duplicates().reset_index(drop=True)
        for column in ("metric", "change", *self.scores):
            found = summary(frame, ["dose"], column, clusters=self.clusters).set_index("dose").reindex(named)
            ends = {end: found[end].to_numpy() for end in ("mean", "low", "high")}
            table = table.assign(**{column: ends["mean"], f"{column}_low": ends["low"], f"{column}_high": ends["high"]})
        rates = [rate(row.numpy(), self.clusters) for row in self.refused]
        gaps = self.score.isnan().any(-1).sum(-1).tolist()
        return table.assign(
            refused=[r.estimate for r in rates], refused_low=[r.low for r in rates], refused_high=[r.high for r in rates],
            missing=gaps,
        )  # fmt: skip

    def ranked(self, *by: str) -> pd.DataFrame:
        """The doses by the sum of some scores (default: all), best first; a dose without a score comes last."""
        names = by or self.scores
        unknown = sorted(set(names) - set(self.scores))
        if unknown:
            raise UndefinedError(f"no score called {', '.join(unknown)}; there are {', '.join(self.scores)}")
        table = self.to_summary()
        table = table[table["dose"] != BASELINE]
        return (
            table.assign(total=table[list(names)].sum(axis=1, skipna=False))
            .sort_values("total", ascending=False, na_position="last", kind="stable")
            .reset_index(drop=True)
        )

    def best(self, *by: str) -> int:
        """Which dose stands first in `ranked`. Raises UndefinedError where no dose has all of these scores."""
        first = records(self.ranked(*by))[0]
        if not np.isfinite(first["total"]):
            raise UndefinedError("no dose has a score: the judge gave none\nsee `missing` for why")
        return self.doses.index(str(first["dose"]))

    def figure(self, value: str = "metric") -> go.Figure:
        """Layer × coefficient as a map where there are several of both, lines along one of them, or bars for neither.

        Random series are drawn as one: their mean, and the least and most of any of them.
        """
        table = self.to_summary()
        said = {"metric": self.provenance.metric, "refused": "share of completions that refuse"}
        unit = said.get(value, f"{value} (mean over prompts)")
        title = f"{'metric' if value == 'metric' else said.get(value, value)} under every dose"
        title = title[0].upper() + title[1:]
        doses, baseline = table[table["dose"] != BASELINE], float(table[value].iloc[0])
        main = doses[doses["series"] == doses["series"].iloc[0]]
        low, high = f"{value}_low", f"{value}_high"
        if _varies(main["layer"]) and _varies(main["coefficient"]):
            return heatmap(
                main, x="coefficient", y="layer", value=value, title=title, x_title="coefficient",
                y_title="layer of the direction", unit=f"{unit} (no edit: {baseline:.3g})", diverging=False, quantile=1.0,
                low=low, high=high,
                caption=self.provenance.caption,
            )  # fmt: skip
        doses = _random_as_one(doses, value)
        if not (_varies(doses["coefficient"]) or _varies(doses["layer"])):
            return bars(
                doses.assign(shown=doses["series"]), x="shown", y=value, threshold=baseline, threshold_name=BASELINE,
                title=title, x_title="edit", y_title=unit, low=low, high=high,
                caption=self.provenance.caption,
            )  # fmt: skip
        along, other = ("coefficient", "layer") if _varies(doses["coefficient"]) else ("layer", "coefficient")
        placed = doses[doses[along].notna()]
        aside = {str(r["series"]): float(r[value]) for r in records(doses[doses[along].isna()])}
        return lines(
            placed.assign(series=_series(placed, other)), x=along, y=value, color="series", title=title, x_title=along,
            y_title=unit, reference={BASELINE: baseline, **aside}, low=low, high=high,
                caption=self.provenance.caption,
        )  # fmt: skip


def _random_as_one(doses: pd.DataFrame, value: str) -> pd.DataFrame:
    """The random series of each coefficient as one row: mean, and the least and most of their means."""
    import pandas as pd

    null = doses["series"].str.startswith("random ")
    n = doses.loc[null, "series"].nunique()
    rows = [
        {
            "dose": "random", "series": f"random, {n} draws (least to most)", "layer": None, "coefficient": coefficient,
            value: part[value].mean(), f"{value}_low": part[value].min(), f"{value}_high": part[value].max(),
        }
        for coefficient, part in doses[null].groupby("coefficient", dropna=False)
    ]  # fmt: skip
    columns = ["dose", "series", "layer", "coefficient", value, f"{value}_low", f"{value}_high"]
    own = doses.loc[~null, columns]
    return pd.concat([own, pd.DataFrame(rows).astype({"layer": "Int64"})], ignore_index=True) if rows else own


def _varies(column: pd.Series[float]) -> bool:
    return len(set(column.dropna().tolist())) > 1


def _series(doses: pd.DataFrame, other: str) -> list[str]:
    """Which doses make one line: those of a series that do not differ in `other`."""
    rows = records(doses.astype({"layer": float}))
    several = {name for name, part in doses.groupby("series") if _varies(part[other])}
    return [f"{r['series']}, {other} {r[other]:g}" if r["series"] in several else str(r["series"]) for r in rows]
