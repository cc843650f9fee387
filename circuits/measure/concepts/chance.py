"""What draws say of an estimate by layer: limits, tails, and p-values adjusted over layers; NaN where it is undefined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from circuits.measure.concepts.contrasts import Array
from circuits.stats import holm


def degrees(cosine: Array) -> Array:
    """The angle of a cosine; 0 or 180 where an estimate lies beyond ±1."""
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def limits(draws: Array) -> tuple[Array, Array]:
    """95 % of the draws of each layer; NaN where more than one in twenty is undefined."""
    low, high = (np.full(draws.shape[1], np.nan) for _ in range(2))
    for layer, column in enumerate(draws.T):
        known = column[np.isfinite(column)]
        if len(known) >= 0.95 * len(column):
            low[layer], high[layer] = np.quantile(known, [0.025, 0.975])
    return low, high


def tail(hits: NDArray[np.bool_], value: Array, draws: Array) -> Array:
    """(1 + hits)/(1 + draws), the observed labels being one of the draws; NaN where the value or any draw is undefined."""
    known = np.isfinite(value) & np.isfinite(draws).all(axis=0)
    return np.where(known, (1 + hits.sum(axis=0)) / (1 + len(draws)), np.nan)


def adjusted(p: Array) -> Array:
    """Holm's p-values over the layers that have one."""
    found, known = np.full(p.shape, np.nan), np.isfinite(p)
    found[known] = holm(p[known])
    return found
