"""p-values by relabelling: exact where all relabellings can be listed, sampled where they cannot.

A sampled p-value counts the observed labelling as one of the draws, (1 + hits)/(1 + draws), so it is never
zero and never too small (Phipson and Smyth 2010).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from circuits.stats.checked import Array, numbers

_AT_ONCE: Final = 1 << 22
"""Floats held at once (32 MB)."""
_TIE: Final = 1e-12
"""Difference, relative to the largest possible, below which two sums are one, added in another order."""


def sign_flip_p(values: Any, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that `values` lie symmetrically about zero; the statistic is their mean.

    All 2ⁿ sign flips are listed where half of them are no more than `resamples`, else as many are drawn.
    Raises UndefinedError without values and where they are not finite.
    """
    return float(max_t(numbers(values, "values")[:, None], resamples=resamples, seed=seed)[0])


def max_t(values: Any, *, resamples: int = 10_000, seed: int = 0) -> Array:
    """p-values of every column of `values` (pair × cell), adjusted for having looked at all of them.

    The signs of whole pairs are flipped together, which keeps the correlation between cells, and each cell's
    |t| is compared with the largest |t| of all cells (Westfall and Young 1993, single step): the chance of
    even one false positive in the sweep is at most the threshold. Instead of t the code compares
    |Σx| / √(n Σx²), which grows with |t|, whose denominator no flip changes, and which needs no division by
    a variance of zero. A column of zeros gets p = 1.

    The smallest p possible is 2¹⁻ⁿ. Raises UndefinedError without pairs and where values are not finite.
    """
    table = numbers(values, "values", axes=2)
    n, cells = table.shape
    norm = n * (table**2).sum(axis=0)
    some = norm > 0
    adjusted = np.ones(cells)
    if not some.any():
        return adjusted
    scaled = table[:, some] / np.sqrt(norm[some])
    observed = np.abs(scaled.sum(axis=0))
    hits = np.zeros(observed.size)
    draws = 0
    exact = n <= 1 + int(np.log2(resamples))
    for signs in (
        _all_signs(n, scaled.shape[1]) if exact else _some_signs(n, scaled.shape[1], resamples, seed)
    ):
        largest = np.abs(signs @ scaled).max(axis=1)  # (sample)
        ranked = np.sort(largest)
        hits += len(ranked) - np.searchsorted(ranked, observed - _TIE)
        draws += len(ranked)
    adjusted[some] = hits / draws if exact else (1 + hits) / (1 + draws)
    return adjusted


def permutation_p(a: Any, b: Any, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that `a` and `b` come from one distribution; the statistic is the difference of means.

    All ways to choose len(a) of the pooled values are listed where they are no more than `resamples`, else
    as many are drawn. Raises UndefinedError where either group is empty or not finite.
    """
    first, second = numbers(a, "first group"), numbers(b, "second group")
    pooled = np.concatenate([first, second])
    n, total = len(first), len(pooled)
    pooled = pooled - pooled.mean()  # the difference of means is then proportional to the sum of one group
    observed = abs(pooled[:n].sum())
    least = observed - _TIE * np.abs(pooled).sum()
    if comb(total, n) <= resamples:
        chosen = np.array(list(combinations(range(total), n)), dtype=np.intp)
        return float((np.abs(pooled[chosen].sum(axis=1)) >= least).mean())
    rng = np.random.default_rng(seed)
    hits, step = 0, max(1, _AT_ONCE // total)
    for start in range(0, resamples, step):
        shuffled = rng.permuted(np.tile(pooled, (min(step, resamples - start), 1)), axis=1)
        hits += int((np.abs(shuffled[:, :n].sum(axis=1)) >= least).sum())
    return (1 + hits) / (1 + resamples)


def _all_signs(n: int, cells: int) -> Iterator[Array]:
    """All flips that leave the last pair as it is: the other half gives the same squares."""
    step = max(1, _AT_ONCE // max(n, cells))
    for start in range(0, 1 << (n - 1), step):
        yield _signs(np.arange(start, min(start + step, 1 << (n - 1)))[:, None] >> np.arange(n) & 1)


def _some_signs(n: int, cells: int, resamples: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(n, cells))
    for start in range(0, resamples, step):
        yield _signs(rng.integers(2, size=(min(step, resamples - start), n)))


def _signs(bits: npt.NDArray[np.int64]) -> Array:
    return np.where(bits == 1, -1.0, 1.0)
