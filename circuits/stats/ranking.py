"""How well a score separates two sets: the area under the ROC curve, with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, special

from circuits.stats.checked import numbers, proper_level
from circuits.stats.interval import Interval, resampling


def auroc(
    positive: Any, negative: Any, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The chance that a random positive scores above a random negative, ties counted half (Mann and Whitney).

    Both sets are resampled independently of each other; the limits are percentiles, with tails widened for
    the smaller set as in `bootstrap_means`. Where the sample separates completely, every resample does too
    and a bootstrap would claim certainty: the limits are then Newcombe's (2006, method 5), and `method` says
    so. Close to separation the bootstrap stays optimistic: at an area of .95, 20 to 40 of each, it covers 91 %.

    Raises UndefinedError where either set is empty or not finite.
    """
    above, under = numbers(positive, "positive scores"), numbers(negative, "negative scores")
    proper_level(level)
    wins = (above[:, None] > under) + 0.5 * (above[:, None] == under)  # (positive, negative)
    area = float(wins.mean())
    n, small = wins.size, min(wins.shape)
    if area in {0.0, 1.0} or small == 1:
        low, high = _newcombe(area, len(above), len(under), level)
        return Interval(area, low, high, level, len(above) + len(under), "Newcombe score")
    rows = resampling(len(above), resamples, seed) @ wins  # (sample, negative)
    drawn = np.einsum("sn,sn->s", rows, resampling(len(under), resamples, seed + 1)) / n
    tail = float(special.stdtrit(small - 1, 0.5 + level / 2)) * np.sqrt(small / (small - 1))
    share = float(special.ndtr(-tail))
    low, high = np.quantile(drawn, [share, 1 - share])
    return Interval(area, float(low), float(high), level, len(above) + len(under), "percentile bootstrap")


def _newcombe(area: float, n: int, m: int, level: float) -> tuple[float, float]:
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
