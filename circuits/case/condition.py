"""How numbers become verdicts: conditions on intervals, combined by stated rules.

Every condition compares the mean over pairs with a number: it holds when the whole interval is on the right side, fails
when the whole interval is on the wrong side, and is open otherwise. A hypothesis is supported when all its conditions
hold, contradicted when one fails, undecided otherwise. Beside each stands how often it holds when the pairs are drawn
again: how stable the finding is, not how likely it is to be true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import pandas as pd

from circuits.report import Verdict
from circuits.result import Result
from circuits.stats import Interval, MeanAbove, bootstrap_mean, cluster_bootstrap_mean, survival

Side = Literal["at least", "below"]
HALF = 0.5
NOTE = (
    "Numbers are means with 95 % intervals; in brackets, the share of resamples of the pairs in which the number stays on "
    "the side of its bound where it is."
)


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """A result's frame, one row per pair and cell, and which pairs are not independent (None: all are)."""

    frame: pd.DataFrame
    clusters: Sequence[int] | None = None

    @classmethod
    def of(cls, result: Result, frame: pd.DataFrame | None = None) -> Rows:
        """The rows of a result: its frame, or another of its frames."""
        return cls(result.to_frame() if frame is None else frame, result.provenance.clusters or None)

    def per_pair(self, value: str, **where: Any) -> tuple[npt.NDArray[np.float64], list[int] | None]:
        """`value` of the rows that `where` names, one per pair where it is defined, and those pairs' clusters.

        Raises ValueError where the rows are several per pair: `where` then names more than one cell.
        """
        here = self.frame
        for column, wanted in where.items():
            here = here[here[column] == wanted]
        if here["pair"].duplicated().any():
            raise ValueError(f"{where} names several cells")
        here = here.dropna(subset=value)
        clusters = None if self.clusters is None else [self.clusters[int(p)] for p in here["pair"]]
        return here[value].to_numpy(float), clusters


@final
@dataclass(frozen=True)
class Condition:
    """One number with its interval, and the side of `bound` it has to be on."""

    name: str
    mean: float
    low: float
    high: float
    side: Side
    bound: float
    share: float | None = None
    """Share of resamples of the pairs in which the mean is on that side; None for what is not a mean over pairs."""

    @property
    def holds(self) -> bool | None:
        """True, False, or None where the interval spans the bound or does not exist."""
        above, below = bool(self.low >= self.bound), bool(self.high < self.bound)
        if not (above or below):
            return None
        return above if self.side == "at least" else below

    @property
    def text(self) -> str:
        """`early MLPs at subject 0.65 [0.59, 0.71] (99 %)`; see `NOTE`."""
        again = ""
        if self.share is not None:
            right = (self.mean >= self.bound) == (self.side == "at least")
            again = f" ({_percent(self.share if right else 1 - self.share)})"
        limits = f"[{self.low:.2f}, {self.high:.2f}]" if math.isfinite(self.low) else "(no interval)"
        return minus(f"{self.name} {self.mean:.2f} {limits}{again}")

    @property
    def rule(self) -> str:
        """`early MLPs at subject at least 0.5`."""
        return f"{self.name} {self.side} {self.bound:.2g}"


def _percent(share: float) -> str:
    """`100 %` and `0 %` only where they are exact."""
    if share in {0.0, 1.0} or 0.005 <= share < 0.995:
        return f"{100 * share:.0f} %"
    return "> 99 %" if share > 0.5 else "< 1 %"


def minus(text: str) -> str:
    """Hyphens before numbers as minus signs, and no minus before zero."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", re.sub(r"-(0\.0+)(?!\d)", r"\1", text))


def pick(
    rows: Rows, name: str, side: Side, bound: float, *, value: str = "fraction", **where: Any
) -> Condition | None:
    """The mean over pairs of the cell that `where` names, as a condition; None where there is no such cell."""
    values, clusters = rows.per_pair(value, **where)
    return None if not len(values) else condition(values, name, side, bound, clusters=clusters)


def condition(
    values: npt.NDArray[np.float64], name: str, side: Side, bound: float, *, clusters: Sequence[int] | None = None
) -> Condition:
    """A condition on the mean of one number per pair."""
    found: Interval = bootstrap_mean(values) if clusters is None else cluster_bootstrap_mean(values, clusters)
    above = float(survival(values[:, None], MeanAbove(bound), clusters=clusters).share[0])
    share = above if side == "at least" else 1 - above
    return Condition(name, found.estimate, found.low, found.high, side, bound, None if len(values) < 2 else share)


def verdict(hypothesis: str, section: str, conditions: Sequence[Condition | None], missing: str = "") -> Verdict:
    """Combine conditions; None stands for a number that does not exist here (`missing` says why)."""
    there = [c for c in conditions if c is not None]
    held = [c.holds for c in there]
    if any(h is False for h in held):
        ruling = "contradicted"
    elif all(held) and len(there) == len(conditions) and there:
        ruling = "supported"
    else:
        ruling = "undecided"
    numbers = "; ".join(c.text for c in there)
    if len(there) < len(conditions):
        numbers = "; ".join(part for part in (numbers, missing) if part)
    return Verdict(hypothesis, ruling, numbers, section, " and ".join(c.rule for c in there))
