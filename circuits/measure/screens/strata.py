"""Arithmetic of `verify` on plain numbers: a stratum known whole (the top) and one known from a sample (the rest)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from circuits.errors import UndefinedError
from circuits.stats import Interval

Numbers = NDArray[np.float64]
RESAMPLES: Final = 2000


@final
@dataclass(frozen=True)
class Rest:
    """Of `n` names that a screen dropped, `sampled` were measured and `hits` of those have a large effect."""

    n: int
    sampled: int
    hits: int

    def most(self, level: float = 0.95) -> int:
        """How many of the rest can be large, sampled ones among them: exact one-sided bound, without replacement.

        The largest number under which so few hits, or fewer, still have probability above 1 − level (hypergeometric).
        """
        if self.sampled == self.n:
            return self.hits
        large = np.arange(self.n + 1)
        return int(large[stats.hypergeom.cdf(self.hits, self.n, large, self.sampled) > 1 - level].max())

    def least(self, level: float = 0.95) -> int:
        """How many of the rest must be large: the smallest number under which so many hits are not too unlikely."""
        if self.sampled == self.n:
            return self.hits
        large = np.arange(self.n + 1)
        return int(large[stats.hypergeom.sf(self.hits - 1, self.n, large, self.sampled) > 1 - level].min())


def recall(hits: int, rest: Rest, level: float = 0.95) -> Interval:
    """Share of all large effects that stand in the top, which holds `hits` of them; NaN where none was seen.

    hits / (hits + hits of the sample × rest / sample); the interval has exact (two-sided) limits of the second number.
    Its low end is never 0 by rounding, and it is wide where the sample is small beside the rest.
    """
    tail = 0.5 + level / 2
    expected = rest.hits * rest.n / rest.sampled if rest.sampled else 0.0

    def share(missed: float) -> float:
        return hits / (hits + missed) if hits + missed else np.nan

    low, high = share(rest.most(tail)), share(rest.least(tail))
    n = hits + rest.hits
    if not n:
        return Interval(np.nan, np.nan, np.nan, level, 0, "no large effect seen")
    return Interval(share(expected), low, high, level, n, "top counted, rest exact hypergeometric")


def rank_correlation(x: Numbers, y: Numbers, stratum: NDArray[np.intp], weight: Numbers, seed: int = 0) -> Interval:
    """Spearman's rank correlation of names that stand for `weight` names each, with a percentile bootstrap interval.

    Names are drawn within their stratum. NaN with fewer than four names, or where one side is all the same. Raises
    UndefinedError for lists of different lengths.
    """
    if not len(x) == len(y) == len(stratum) == len(weight):
        raise UndefinedError("a rank correlation needs one of each for every name")
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Interval(np.nan, np.nan, np.nan, 0.95, len(x), "fewer than four names, or no spread")
    rng = np.random.default_rng(seed)
    counts = np.ones((RESAMPLES + 1, len(x)))
    for each in np.unique(stratum):
        here = np.flatnonzero(stratum == each)
        counts[1:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=RESAMPLES)
    drawn = _correlation(_ranks(x, counts * weight), _ranks(y, counts * weight), counts * weight)
    kept = drawn[1:][np.isfinite(drawn[1:])]
    if not len(kept):
        return Interval(float(drawn[0]), np.nan, np.nan, 0.95, len(x), "no draw has spread")
    low, high = np.quantile(kept, [0.025, 0.975])
    return Interval(float(drawn[0]), float(low), float(high), 0.95, len(x), "percentile bootstrap of names by stratum")


def _ranks(x: Numbers, weights: Numbers) -> Numbers:
    """Mid-ranks of every draw, (sample, name): the weight below, and half of that beside."""
    below = (x[None, :] < x[:, None]) + 0.5 * (x[None, :] == x[:, None])
    return weights @ below.T


def _correlation(a: Numbers, b: Numbers, w: Numbers) -> Numbers:
    total = w.sum(1, keepdims=True)
    a, b = (r - (w * r).sum(1, keepdims=True) / total for r in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (w * a * b).sum(1) / np.sqrt((w * a * a).sum(1) * (w * b * b).sum(1))
