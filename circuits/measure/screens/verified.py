"""Screened scores beside exact effects: recall, the bound on what was missed, rank correlation, signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from circuits.draw import scatter
from circuits.frames import long_frame
from circuits.measure.screens.strata import Rest, rank_correlation, recall
from circuits.result import Result
from circuits.stats import Interval, wilson

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FINDS: Final = 0.8
"""A screen whose recall is surely at least this finds large effects …"""
MISSES: Final = 0.5
"""… and one whose recall is surely below this misses most of them."""


@final
@dataclass(frozen=True, kw_only=True)
class Verified(Result):
    """Scores and exact effects of the top of a screen, then of a random sample of the rest, in units of the metric.

    What is said is said of the effects on these pairs: `large` is mean |exact| of at least `threshold` over them.
    """

    score: Float[Tensor, "pair cell"]
    exact: Float[Tensor, "pair cell"]
    names: tuple[str, ...]
    n_top: int
    """The first so many are the top, all of them; the others a sample of the rest."""
    n_names: int
    """Names screened."""
    threshold: float
    method: str
    signed: bool
    direction: str
    seed: int

    @property
    def recall(self) -> Interval:
        """Share of all large effects that the top holds, with its interval; NaN where none was seen."""
        return recall(int(self._large[: self.n_top].sum()), self._rest)

    @property
    def most_unseen(self) -> int:
        """At 95 % confidence no more of the names never measured have a large effect."""
        return self._rest.most() - self._rest.hits

    @property
    def chance(self) -> float:
        """The recall that names in a random order have on average."""
        return self.n_top / self.n_names

    @property
    def largest_missed(self) -> tuple[str, float]:
        """The largest effect (mean |exact|) within the sample of the rest; ("", 0) where there is no rest."""
        rest = self._size[self.n_top :]
        return ("", 0.0) if not len(rest) else (self.names[self.n_top + int(rest.argmax())], float(rest.max()))

    @property
    def rank_correlation(self) -> dict[str, Interval]:
        """Spearman's ρ of mean |score| and mean |exact|: within the top, within the sample, and of all names.

        For all, each of the sample stands for as many names as the sample is short of the rest.
        """
        strata = (np.arange(len(self.names)) >= self.n_top).astype(np.intp)
        weight = np.where(strata == 1, self._rest.n / max(1, self._rest.sampled), 1.0)
        scores = self.score.double().abs().mean(0).numpy()
        parts = {"top": strata == 0, "sample": strata == 1, "all": strata >= 0}
        return {
            name: rank_correlation(scores[here], self._size[here], strata[here], weight[here], self.seed)
            for name, here in parts.items()
        }

    @property
    def sign_agreement(self) -> Interval:
        """Of the large effects measured, the share whose mean has the sign of the mean score; NaN without (signs).

        The interval is Wilson's, over names.
        """
        here = self._large
        if not self.signed or not here.any():
            return Interval(np.nan, np.nan, np.nan, 0.95, 0, "no signs, or no large effect")
        score, exact = (t.double().mean(0).numpy()[here] for t in (self.score, self.exact))
        return wilson(int((score * exact > 0).sum()), int(here.sum()))

    @property
    def verdict(self) -> str:
        """What follows, in a sentence."""
        found, unseen = self.recall, self.most_unseen
        missed = f"at most {unseen} of {self._rest.n - self._rest.sampled} never measured can be large (95 %)"
        if not found.n:
            return f"no effect of at least {self.threshold:.3g} was seen: recall does not exist; {missed}"
        if found.low >= FINDS:
            judged = "this screen finds large effects"
        elif self._large[: self.n_top].all():
            judged = "all of the top is large and so are others: take a longer top"
        elif found.low <= self.chance:
            judged = f"not shown to be better than names at random ({self.chance:.3g}); do not rely on this screen"
        elif found.high < MISSES:
            judged = "this screen misses most large effects; do not rely on it"
        else:
            judged = "undecided, measure more of the top and of the rest"
        return f"recall {found}: {judged}; {missed}"

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and verified name: name, stratum (top, sample), score, exact."""
        axes = {"pair": list(range(len(self.score))), "cell": list(range(len(self.names)))}
        frame = long_frame(axes, {"score": self.score.double().numpy(), "exact": self.exact.double().numpy()})
        at = frame["cell"].to_numpy()
        columns = {"name": np.array(self.names, dtype=object)[at], "stratum": np.array(self._strata, dtype=object)[at]}
        return frame.assign(**columns).drop(columns="cell")

    def to_names(self) -> pd.DataFrame:
        """One row per verified name: stratum, mean score and exact effect, their sizes (means of absolutes), large."""
        import pandas as pd

        means: dict[str, Any] = {
            name: t.double().mean(0).numpy() for name, t in (("score", self.score), ("exact", self.exact))
        }
        return pd.DataFrame({
            "name": self.names, "stratum": self._strata, **means, "score_size": self.score.double().abs().mean(0).numpy(),
            "exact_size": self._size, "large": self._large,
        })  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row: recall, the largest effect missed, the bound on the unmeasured, ρ, signs, verdict."""
        import pandas as pd

        name, size = self.largest_missed
        row: dict[str, Any] = {
            "method": self.method, "direction": self.direction, "names": self.n_names, "top": self.n_top,
            "sampled": self._rest.sampled, "threshold": self.threshold, "large_in_top": int(self._large[: self.n_top].sum()),
            "large_in_sample": self._rest.hits, "largest_missed": name, "largest_missed_size": size,
            "most_unseen": self.most_unseen, "chance": self.chance,
        }  # fmt: skip
        intervals = {"recall": self.recall, "sign_agreement": self.sign_agreement}
        intervals |= {f"rho_{part}": found for part, found in self.rank_correlation.items()}
        for column, found in intervals.items():
            row |= {column: found.estimate, f"{column}_low": found.low, f"{column}_high": found.high}
        return pd.DataFrame([row | {"verdict": self.verdict}])

    def figure(self) -> go.Figure:
        """Exact effect against score, top and sample apart; on a line through zero where the screen is right."""
        shown = self.to_names()
        return scatter(
            shown.assign(text=shown["name"], set=shown["stratum"].map({"top": "top of the screen", "sample": "of the rest"})),
            x="score", y="exact", color="set", title=f"Screen by {self.method} against exact effects",
            x_title="estimated change of the metric, mean over pairs", y_title="measured change",
            caption=f"{self.provenance.caption} · {self.verdict}",
        )  # fmt: skip

    @property
    def _strata(self) -> list[str]:
        return ["top" if i < self.n_top else "sample" for i in range(len(self.names))]

    @property
    def _size(self) -> NDArray[np.float64]:
        return self.exact.double().abs().mean(0).numpy()

    @property
    def _large(self) -> NDArray[np.bool_]:
        return self._size >= self.threshold

    @property
    def _rest(self) -> Rest:
        return Rest(self.n_names - self.n_top, len(self.names) - self.n_top, int(self._large[self.n_top :].sum()))
