"""Corrections for p-values that were computed one by one; where the pairs are at hand, `max_t` is sharper."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.errors import UndefinedError
from circuits.stats.checked import Array, numbers


def benjamini_hochberg(p: Any) -> Array:
    """q-values: of the cells with q ≤ α, a share of at most α is false on average.

    Benjamini and Hochberg (1995); holds for independent and for positively dependent cells.
    Raises UndefinedError for anything but p-values.
    """
    values = _p_values(p)
    order = np.argsort(values)[::-1]
    rank = np.arange(len(values), 0, -1)
    return _back(order, np.minimum.accumulate(values[order] * len(values) / rank))


def holm(p: Any) -> Array:
    """Adjusted p-values: the chance of even one false cell with p ≤ α is at most α, however dependent.

    Holm (1979). Raises UndefinedError for anything but p-values.
    """
    values = _p_values(p)
    order = np.argsort(values)
    left = np.arange(len(values), 0, -1)
    return _back(order, np.minimum(np.maximum.accumulate(values[order] * left), 1.0))


def _p_values(p: Any) -> Array:
    values = numbers(p, "p-values", least=0)
    if np.any((values < 0) | (values > 1)):
        raise UndefinedError(f"p-values lie between 0 and 1, got {values.min():.3g} to {values.max():.3g}")
    return values


def _back(order: Any, adjusted: Array) -> Array:
    """Undo a sorting."""
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result
