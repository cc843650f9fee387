"""Did a rate change? A yes or no, asked of the same prompts twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.errors import UndefinedError
from circuits.stats.checked import Array
from circuits.stats.cluster import cluster_sums
from circuits.stats.interval import Interval
from circuits.stats.rates import rate, worth, yes_or_no


def mcnemar_p(before: Any, after: Any, clusters: Any = None) -> float:
    """Two-sided exact p that as many answers turn from no to yes as from yes to no (McNemar; the sign test).

    Only prompts whose answer changed count: p = 1 where none did, and with n of them it is at least 2¹⁻ⁿ. With
    `clusters`, the cluster of each prompt, n counts clusters: the signs of what changed in each are flipped together. Raises
    UndefinedError without prompts, for unequal numbers of them (or of clusters) and for answers other than 0 and 1.
    """
    first, second = _answers(before, after)
    change = second - first
    sums = change if clusters is None else cluster_sums(change[:, None], clusters)[0][:, 0]
    chance = np.ones(1)  # of every sum from −Σ|x| to Σ|x|, over all flips
    for size in np.abs(sums[sums != 0]).astype(int):
        gap = np.zeros(2 * size)
        chance = (np.concatenate([chance, gap]) + np.concatenate([gap, chance])) / 2
    reach = len(chance) // 2
    return min(1.0, float(chance[np.abs(np.arange(-reach, reach + 1)) >= abs(sums.sum())].sum()))


def paired_change(before: Any, after: Any, clusters: Any = None, *, level: float = 0.95) -> Interval:
    """The change of a rate, after − before, on the same prompts, with Newcombe's (1998, method 10) interval.

    Wilson's limits of the two rates, combined with the correlation of the two answers. Unlike a bootstrap it has a width
    where every prompt changed alike. With `clusters` the limits are `rates.rate`'s and the answers weigh no more than they
    are worth; measured for 95 %: 94 to 99 % for 13 to 50 clusters, up to 100 % for 6 and 12 (as if independent: from 64 %
    on). Raises UndefinedError as `mcnemar_p` does.
    """
    first, second = _answers(before, after)
    n = len(first)
    old, new = rate(first, clusters, level=level), rate(second, clusters, level=level)
    change = new.estimate - old.estimate
    if not np.isfinite(new.low + old.low):
        return Interval(change, np.nan, np.nan, level, n, new.method)
    share = 1.0 if clusters is None else min(worth(x, clusters, level=level) for x in (first, second)) / n
    both, neither = share * float((first * second).sum()), share * float(((1 - first) * (1 - second)).sum())
    gained, lost = share * float((second > first).sum()), share * float((second < first).sum())
    product = both * neither - gained * lost
    if product > 0:
        product = max(product - share * n / 2, 0.0)  # his correction for continuity
    scale = np.sqrt((both + gained) * (lost + neither) * (both + lost) * (gained + neither))
    phi = product / scale if scale > 0 else 0.0

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))

    low = change - reach(new.estimate - new.low, old.high - old.estimate)
    high = change + reach(new.high - new.estimate, old.estimate - old.low)
    method = "Newcombe paired score" + ("" if clusters is None else ", by clusters")
    return Interval(change, max(low, -1.0), min(high, 1.0), level, n, method)


def _answers(before: Any, after: Any) -> tuple[Array, Array]:
    first, second = yes_or_no(before), yes_or_no(after)
    if len(first) != len(second):
        raise UndefinedError(f"{len(first)} answers before and {len(second)} after: they must be of the same prompts")
    return first, second
