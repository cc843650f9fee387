"""How often, of answers that are yes or no, some of which say the same: a rate over as many answers as they are worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from circuits.errors import UndefinedError
from circuits.stats.checked import Array, numbers, proper_level
from circuits.stats.cluster import cluster_sums
from circuits.stats.interval import Interval, effective, score, wilson


def rate(answers: Any, clusters: Any = None, *, level: float = 0.95) -> Interval:
    """The share of answers that are 1, with Wilson's score interval for `worth` answers.

    Without `clusters`, `wilson`. Measured where 95 % is claimed, at rates of .5, .8 and .95 and correlations within clusters
    from 0 to .9: 93 to 99 % for 6 to 50 clusters (as if independent: from 68 % on).
    Limits are NaN for one cluster, and where one is so large that all together say less than two. Raises UndefinedError
    without answers, for answers other than 0 and 1, and for another number of clusters than of answers.
    """
    given = yes_or_no(answers)
    successes, n = int(given.sum()), len(given)
    if clusters is None:
        return wilson(successes, n, level)
    known = worth(given, clusters, level=level)
    if not np.isfinite(known):
        return Interval(successes / n, np.nan, np.nan, level, n, "too few clusters: no interval")
    low, high = score(successes / n, known, level)
    return Interval(successes / n, low, high, level, n, f"Wilson score for {known:.3g} answers, by clusters")


def worth(answers: Any, clusters: Any, *, level: float = 0.95) -> float:
    """How many independent answers would say as much about the rate, never more than there are (Korn and Graubard 1998).

    n times the variance of independent answers over that between clusters, times (z/t)² for knowing the latter from few
    clusters, (Σ size)²/Σ size² of them; so many clusters where all answers agree. NaN for fewer than two.
    """
    given = yes_or_no(answers)
    p, n = given.mean(), len(given)
    sums, sizes = cluster_sums(given[:, None] - p, clusters)
    k = effective(sizes)
    if k < 2:
        return float("nan")
    between = len(sizes) / (len(sizes) - 1) * float((sums**2).sum()) / n**2
    alone = float(p * (1 - p) / (n - 1))
    least = 1e-12 * alone  # clusters that all have the same rate differ by rounding
    known = k if not alone else n if between <= least else min(float(n), n * alone / between)
    upper = 0.5 + proper_level(level) / 2
    return float(known * (special.ndtri(upper) / special.stdtrit(k - 1, upper)) ** 2)


def yes_or_no(answers: Any) -> Array:
    """As numbers. Raises UndefinedError without answers, and for answers other than 0 and 1."""
    given = numbers(answers, "answers")
    if not np.isin(given, (0.0, 1.0)).all():
        raise UndefinedError("answers are 0 or 1")
    return given
