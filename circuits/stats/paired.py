"""Did a rate change? A yes or no, asked of the same prompts twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from circuits.errors import UndefinedError
from circuits.stats.checked import numbers
from circuits.stats.interval import Interval, wilson


def mcnemar_p(before: Any, after: Any) -> float:
    """Two-sided exact p that as many answers turn from no to yes as from yes to no (McNemar; the sign test).

    Only prompts whose answer changed count: p = 1 where none did, and with n of them it is at least 2¹⁻ⁿ. Raises
    UndefinedError without prompts, for unequal numbers of them and for answers other than 0 and 1.
    """
    first, second = _answers(before, after)
    gained, lost = int((second > first).sum()), int((second < first).sum())
    few, n = min(gained, lost), gained + lost
    return min(1.0, 2 * float(special.bdtr(few, n, 0.5))) if n else 1.0


def paired_change(before: Any, after: Any, *, level: float = 0.95) -> Interval:
    """The change of a rate, after − before, on the same prompts, with Newcombe's (1998, method 10) interval.

    Wilson's limits of the two rates, combined with the correlation of the two answers. Unlike a bootstrap it has a width
    where every prompt changed alike. Raises UndefinedError as `mcnemar_p` does.
    """
    first, second = _answers(before, after)
    n = len(first)
    old, new = wilson(int(first.sum()), n, level), wilson(int(second.sum()), n, level)
    both, neither = float((first * second).sum()), float(((1 - first) * (1 - second)).sum())
    gained, lost = float((second > first).sum()), float((second < first).sum())
    product = both * neither - gained * lost
    if product > 0:
        product = max(product - n / 2, 0.0)  # his correction for continuity
    scale = np.sqrt((both + gained) * (lost + neither) * (both + lost) * (gained + neither))
    phi = product / scale if scale > 0 else 0.0
    change = new.estimate - old.estimate

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))

    low = change - reach(new.estimate - new.low, old.high - old.estimate)
    high = change + reach(new.high - new.estimate, old.estimate - old.low)
    return Interval(change, max(low, -1.0), min(high, 1.0), level, n, "Newcombe paired score")


def _answers(before: Any, after: Any) -> tuple[Any, Any]:
    first, second = numbers(before, "answers before"), numbers(after, "answers after")
    if len(first) != len(second):
        raise UndefinedError(f"{len(first)} answers before and {len(second)} after: they must be of the same prompts")
    for answers in (first, second):
        if not np.isin(answers, (0.0, 1.0)).all():
            raise UndefinedError("answers are 0 or 1")
    return first, second
