"""A number with its interval: means by bootstrap, rates by Wilson's score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from scipy import special

from circuits.errors import UndefinedError
from circuits.stats.checked import Array, numbers, proper_level

_DRAWS_AT_ONCE: Final = 1 << 22
"""Floats held at once while resampling (32 MB)."""
_TIE: Final = 1e-12
"""Relative difference below which two numbers are one, summed in another order."""


@final
@dataclass(frozen=True)
class Interval:
    """An estimate and where the true value lies with confidence `level`, from `n` observations.

    `low` and `high` are NaN where one observation says nothing about the spread.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    method: str

    def __str__(self) -> str:
        """`0.43 [0.31, 0.55]`."""
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def excludes(self, value: float = 0.0) -> bool:
        """Whether `value` lies outside; never true of an interval that is not known."""
        return value < self.low or value > self.high


def bootstrap_mean(values: Any, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of `values` with its bootstrap interval; see `bootstrap_means`."""
    column = numbers(values, "values")
    return bootstrap_means(column[:, None], level=level, resamples=resamples, seed=seed)[0]


def bootstrap_means(values: Any, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> list[Interval]:
    """The mean of every column of `values` (pair × cell) with its interval, over one resampling of the pairs.

    Bias-corrected and accelerated (Efron 1987), with tails widened from Φ(z) to Φ(√(n/(n−1)) t) as
    Hesterberg (2015) advises. Measured where 95 % is claimed: 93 to 97 % for 12 to 52 pairs from normal to
    exponential values. It is optimistic with fewer pairs (8 exponential values: 91 %), for values more skewed
    (52 log-normal ones: 91 %), and where few pairs carry the whole effect (2 of 8 in the mean: 83 %).

    A column without spread gives low = high = estimate; a single pair gives NaN limits. Pairs that share a
    template are not independent: `cluster_bootstrap_means`.
    Raises UndefinedError without pairs and where values are not finite.
    """
    table = numbers(values, "values", axes=2)
    n = len(table)
    proper_level(level)
    if n == 1:
        return [Interval(float(m), np.nan, np.nan, level, 1, "one value: no interval") for m in table[0]]
    return drawn_intervals(table, np.ones(n), n, "BCa bootstrap", level=level, resamples=resamples, seed=seed)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """A rate of `successes` in `n` with Wilson's score interval (1927), which holds near 0 and 1.

    Raises UndefinedError for n = 0 and for successes outside 0…n.
    """
    if n < 1:
        raise UndefinedError("a rate of nothing: n must be at least 1")
    if not 0 <= successes <= n:
        raise UndefinedError(f"{successes} successes of {n}: must be between 0 and {n}")
    rate = successes / n
    return Interval(rate, *score(rate, n, level), level, n, "Wilson score")


def score(rate: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's limits of a rate, seen in n answers."""
    z2 = float(special.ndtri(0.5 + proper_level(level) / 2)) ** 2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return 0.0 if rate == 0 else float(centre - half), 1.0 if rate == 1 else float(centre + half)


def resampling(n: int, resamples: int, seed: int) -> Array:
    """How often each of n observations is drawn, (sample, pair): a mean is then one matrix product."""
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, n))
    step = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
    return counts


def effective(sizes: Array) -> float:
    """How many rows of one size would say as much as rows of these sizes, (Σ size)²/Σ size²."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def widened(n: float, level: float) -> float:
    """Hesterberg's normal score of a bootstrap's upper limit for n rows: √(n/(n−1)) t instead of z."""
    return float(special.stdtrit(n - 1, 0.5 + level / 2)) * float(np.sqrt(n / (n - 1)))


def drawn_intervals(
    sums: Array, sizes: Array, n: int, method: str, *, level: float, resamples: int, seed: int
) -> list[Interval]:
    """Intervals of Σ sums/Σ sizes per column, resampling the rows: pairs, or clusters with the sums of their pairs."""
    means = sums.sum(axis=0) / sizes.sum()
    low, high = means.copy(), means.copy()
    rows = sums / sizes[:, None]
    varying = np.ptp(rows, axis=0) > _TIE * np.abs(rows).max(axis=0)
    if varying.any():
        counts = resampling(len(sums), resamples, seed)
        step = max(1, _DRAWS_AT_ONCE // resamples)
        for start in range(0, sums.shape[1], step):
            some = start + np.flatnonzero(varying[start : start + step])
            low[some], high[some] = _limits(sums[:, some], sizes, counts, level)
    return [
        Interval(
            float(means[c]), float(low[c]), float(high[c]), level, n,
            method if varying[c] else "no spread in the sample",
        )
        for c in range(len(means))
    ]  # fmt: skip


def _limits(sums: Array, sizes: Array, counts: Array, level: float) -> tuple[Array, Array]:
    resamples = len(counts)
    means = sums.sum(axis=0) / sizes.sum()
    drawn = np.sort((counts @ sums) / (counts @ sizes)[:, None], axis=0)  # (sample, cell)
    tie = _TIE * np.abs(sums / sizes[:, None]).max(axis=0)
    below = (drawn < means - tie).sum(axis=0) + 0.5 * (np.abs(drawn - means) <= tie).sum(axis=0)
    bias = special.ndtri(np.clip(below / resamples, 0.5 / resamples, 1 - 0.5 / resamples))
    pull = sums - means * sizes[:, None]  # what each row does to the mean
    acceleration = (pull**3).sum(axis=0) / (6 * (pull**2).sum(axis=0) ** 1.5)
    tail = widened(effective(sizes), level)
    limits = [_quantile(drawn, _share(z, bias, acceleration)) for z in (-tail, tail)]
    return limits[0], limits[1]


def _share(z: float, bias: Array, acceleration: Array) -> Array:
    """BCa's corrected share of the draws below a limit; where the correction breaks down, all or none."""
    bend = 1 - acceleration * (bias + z)
    safe = np.where(bend > 0, bend, 1.0)
    return np.where(bend > 0, special.ndtr(bias + (bias + z) / safe), float(z > 0))


def _quantile(drawn: Array, share: Array) -> Array:
    """The quantile `share[c]` of each sorted column c."""
    place = share * (len(drawn) - 1)
    under = np.floor(place).astype(np.intp)
    over = np.minimum(under + 1, len(drawn) - 1)
    cell = np.arange(drawn.shape[1])
    return drawn[under, cell] + (place - under) * (drawn[over, cell] - drawn[under, cell])
