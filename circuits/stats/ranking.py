"""How well a score separates two sets: the area under the ROC curve, with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from scipy import optimize, special

from circuits.errors import UndefinedError
from circuits.stats.checked import Array, numbers, proper_level
from circuits.stats.interval import Interval, effective

_NEAR: Final = 0.4
"""Distance of an area from one half beyond which its own placements understate its variance."""
_FLAT: Final = 1e-24
"""A variance that rounding alone can leave of zero."""


def auroc(positive: Any, negative: Any, *, clusters: tuple[Any, Any] | None = None, level: float = 0.95) -> Interval:
    """The chance that a random positive scores above a random negative, ties counted half (Mann and Whitney).

    The limits are DeLong's (1988) on the logit scale, with Student's t at Welch's degrees of freedom. Above .9 (and
    below .1) too few pairs are out of order to show their own spread: the limits are then the wider of those and
    Newcombe's (2006, method 5), at complete separation Newcombe's alone; `method` says so. Measured where 95 % is
    claimed, for 15 to 90 of each, spreads that differ threefold, and scores of four values: 94 to 98 % at areas up
    to .8, 96 to 99 % at .95 and .98; with 8 of each, 97 to 99 %.

    Scores count as independent, unless `clusters` names the cluster of each positive and of each negative: the two
    prompts of a pair, or all of a template. The variance is then Obuchowski's (1997), which is DeLong's where every score
    stands alone; degrees of freedom and Newcombe's set sizes count clusters, (Σ size)²/Σ size² of them. Measured for 95 %
    with half of the variance between clusters: 95 to 97 % for 52 pairs at areas up to .8 (as if independent: 99 %, and 90 %
    where scores of a pair go apart), 94 to 99 % for 12 pairs and for 6 to 13 templates of sizes that differ by a factor of
    ten (as if independent: from 60 % on), 97 to 100 % at .95 and .98. Limits are NaN for one cluster.

    Raises UndefinedError where either set is empty or not finite, and for another number of clusters than of scores.
    """
    above, under = numbers(positive, "positive scores"), numbers(negative, "negative scores")
    proper_level(level)
    wins = (above[:, None] > under) + 0.5 * (above[:, None] == under)  # (positive, negative)
    area, n = float(wins.mean()), len(above) + len(under)
    found = _delong(wins) if clusters is None else _obuchowski(wins, clusters)
    if found is None:
        return Interval(area, np.nan, np.nan, level, n, "one cluster: no interval")
    score = newcombe(area, *found.sizes, level)
    if area in {0.0, 1.0} or min(found.sizes) < 2:
        return Interval(area, *score, level, n, f"Newcombe score{found.of}")
    if found.variance <= _FLAT:  # every positive stands alike to the negatives: all tied, or in the middle of them
        return Interval(area, *score, level, n, f"Newcombe score{found.of}: no spread in the sample")
    half = float(special.stdtrit(found.df, 0.5 + level / 2)) * np.sqrt(found.variance) / (area * (1 - area))
    low, high = (float(special.expit(special.logit(area) + side)) for side in (-half, half))
    if abs(area - 0.5) <= _NEAR:
        return Interval(area, low, high, level, n, f"{found.name}, logit{found.of}")
    method = f"wider of {found.name} and Newcombe{found.of}"
    return Interval(area, min(low, score[0]), max(high, score[1]), level, n, method)


@final
@dataclass(frozen=True)
class _Spread:
    """What an area may be off by, and from how many scores of either set (or clusters of them) that is known."""

    variance: float
    df: float
    sizes: tuple[float, float]
    name: str
    of: str = ""


def _delong(wins: Array) -> _Spread:
    n, m = wins.shape
    if min(n, m) == 1:
        return _Spread(np.nan, np.nan, (n, m), "DeLong")
    first, second = (float(wins.mean(axis=axis).var(ddof=1) / size) for axis, size in ((1, n), (0, m)))
    variance = first + second
    df = variance**2 / (first**2 / (n - 1) + second**2 / (m - 1)) if variance else np.nan
    return _Spread(variance, df, (n, m), "DeLong")


def _obuchowski(wins: Array, clusters: tuple[Any, Any]) -> _Spread | None:
    """Every cluster's part in the area's error, squared; None for one cluster."""
    n, m = wins.shape
    names = [list(of) for of in clusters]
    for of, size, what in zip(names, (n, m), ("positive", "negative"), strict=True):
        if len(of) != size:
            raise UndefinedError(f"{len(of)} clusters named for {size} {what} scores; name the cluster of each score")
    place: dict[Any, int] = {}
    of = np.array([place.setdefault(name, len(place)) for name in (*names[0], *names[1])], dtype=np.intp)
    k = len(place)
    if k == 1:
        return None
    counts = np.stack([np.bincount(of[:n], minlength=k), np.bincount(of[n:], minlength=k)]).astype(np.float64)
    sizes = effective(counts[0]), effective(counts[1])
    said = f", {k} clusters"
    ks = (counts > 0).sum(axis=1)
    if ks.min() == 1:
        return _Spread(np.nan, np.nan, sizes, "Obuchowski", said)
    area = wins.mean()
    a = np.bincount(of[:n], weights=wins.mean(axis=1) - area, minlength=k) / n
    b = np.bincount(of[n:], weights=wins.mean(axis=0) - area, minlength=k) / m
    parts = ks[0] / (ks[0] - 1) * a**2 + ks[1] / (ks[1] - 1) * b**2 + 2 * k / (k - 1) * a * b
    variance = float(parts.sum())
    # Satterthwaite over the clusters of positives alone, of negatives alone, and of both
    holds, spent = (counts > 0).T, 0.0
    for kind, freed in (((True, False), ks[0]), ((False, True), ks[1]), ((True, True), ks.min())):
        here = (holds == kind).all(axis=1)
        if here.any():
            spent += parts[here].sum() ** 2 / (effective(counts.sum(axis=0)[here]) * (1 - 1 / freed))
    return _Spread(variance, variance**2 / spent if spent else np.nan, sizes, "Obuchowski", said)


def newcombe(area: float, n: float, m: float, level: float) -> tuple[float, float]:
    """Limits t with |area − t| = z √V(t); V is Hanley and McNeil's variance, its two set sizes balanced."""
    z = float(special.ndtri(0.5 + level / 2))
    balanced = (n + m) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + balanced * ((1 - t) / (2 - t) + t / (1 + t))) / (n * m)
        return abs(area - t) - z * np.sqrt(variance)

    edge = 1e-12  # the variance vanishes at 0 and 1, where `excess` has a root that is no limit
    low = 0.0 if area <= edge else optimize.brentq(excess, 0.0, min(area, 1 - edge))
    high = 1.0 if area >= 1 - edge else optimize.brentq(excess, max(area, edge), 1.0)
    return float(low), float(high)
