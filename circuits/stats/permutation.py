"""p-values by relabelling: exact where all relabellings can be listed, sampled where they cannot.

A sampled p-value counts the observed labelling as one of the draws, (1 + hits)/(1 + draws), so it is never
zero and never too small (Phipson and Smyth 2010).
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any, Final

import numpy as np

from circuits.stats.checked import Array, numbers
from circuits.stats.flips import TIE, sweep
from circuits.stats.significance import PValue

_AT_ONCE: Final = 1 << 22
"""Floats held at once (32 MB)."""
_TIE: Final = 1e-12
"""Difference, relative to the largest possible, below which two sums are one, added in another order."""


def sign_flip_p(values: Any, *, resamples: int = 10_000, seed: int = 0) -> float:
    """The bare p of `sign_flip_test`, which knows besides what p it could have given."""
    return sign_flip_test(values, resamples=resamples, seed=seed).p


def sign_flip_test(
    values: Any, *, clusters: Any = None, resamples: int = 10_000, seed: int = 0
) -> PValue:
    """Two-sided p that `values` lie symmetrically about zero; the statistic is their mean.

    All 2ⁿ sign flips are listed where half of them are no more than `resamples`, else as many are drawn.
    Raises UndefinedError without values and where they are not finite.
    """
    column = numbers(values, "values")[:, None]
    return max_t_test(column, clusters=clusters, resamples=resamples, seed=seed)[0]


def max_t(
    values: Any, *, present: Any = None, clusters: Any = None, resamples: int = 10_000, seed: int = 0
) -> Array:
    """The bare p of every column of `max_t_test`, which knows besides what p it could have given."""
    found = max_t_test(values, present=present, clusters=clusters, resamples=resamples, seed=seed)
    return np.array([cell.p for cell in found])


def max_t_test(
    values: Any, *, present: Any = None, clusters: Any = None, resamples: int = 10_000, seed: int = 0
) -> list[PValue]:
    """p-values of every column of `values` (pair × cell), adjusted for having looked at all of them.

    The signs of whole pairs are flipped together, which keeps the correlation between cells, and each cell's
    |t| is compared with the largest |t| of all cells (Westfall and Young 1993, single step): the chance of
    even one false positive in the sweep is at most the threshold. Instead of t the code compares
    |Σx| / √Σx², which grows with |t|, whose denominator no flip changes, and which needs no division by
    a variance of zero. A column of zeros gets p = 1. The null is symmetry: a skewed effect of mean zero is no
    member of it.

    `present` (pair × cell) says where there is a value at all; the others are not read. With `clusters`, the cluster
    of each pair, the sums of whole clusters are flipped: pairs of one cluster may then depend on each other.
    Raises UndefinedError without pairs, where values are not finite, and for a cell without pairs.
    """
    table = sweep(values, present, clusters)
    statistic, largest = table.statistic, table.largest(resamples, seed)
    draws = len(largest)
    hits = draws - np.searchsorted(largest, statistic - TIE)
    exact = table.exact(resamples)
    p = hits / draws if exact else (1 + hits) / (1 + draws)
    n, zeros, constant = table.n, table.zeros, table.constant
    moving = n - zeros
    least = np.maximum(np.minimum(2.0 ** (1 - moving), 1.0), 0.0 if exact else 1 / (1 + draws))
    unit = "pair" if clusters is None else "cluster"
    return [
        PValue(float(p[c]), float(least[c]), int(n[c]), int(zeros[c]), bool(constant[c]), unit)
        for c in range(len(p))
    ]


def permutation_p(a: Any, b: Any, *, resamples: int = 10_000, seed: int = 0) -> float:
    """The bare p of `permutation_test`, which knows besides what p it could have given."""
    return permutation_test(a, b, resamples=resamples, seed=seed).p


def permutation_test(a: Any, b: Any, *, resamples: int = 10_000, seed: int = 0) -> PValue:
    """Two-sided p that `a` and `b` come from one distribution; the statistic is the difference of means.

    All ways to choose len(a) of the pooled values are listed where they are no more than `resamples`, else
    as many are drawn. Raises UndefinedError where either group is empty or not finite.
    """
    first, second = numbers(a, "first group"), numbers(b, "second group")
    pooled = np.concatenate([first, second])
    n, total = len(first), len(pooled)
    constant = bool(np.ptp(pooled) <= _TIE * np.abs(pooled).max())
    pooled = pooled - pooled.mean()  # the difference of means is then proportional to the sum of one group
    observed = abs(pooled[:n].sum())
    least = observed - _TIE * np.abs(pooled).sum()
    best = (2 if 2 * n == total else 1) / comb(total, n)  # groups of one size can change places
    if comb(total, n) <= resamples:
        chosen = np.array(list(combinations(range(total), n)), dtype=np.intp)
        p = float((np.abs(pooled[chosen].sum(axis=1)) >= least).mean())
        return PValue(p, best, total, 0, constant, "value")
    rng = np.random.default_rng(seed)
    hits, step = 0, max(1, _AT_ONCE // total)
    for start in range(0, resamples, step):
        shuffled = rng.permuted(np.tile(pooled, (min(step, resamples - start), 1)), axis=1)
        hits += int((np.abs(shuffled[:, :n].sum(axis=1)) >= least).sum())
    p = (1 + hits) / (1 + resamples)
    return PValue(p, max(best, 1 / (1 + resamples)), total, 0, constant, "value")
