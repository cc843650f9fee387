"""Long frames: one row per pair and cell, the axes' names as columns, and their averages with intervals.

`fraction` is defined here once, for every patching measurement: (patched − base)/(source − base), per pair. A pair whose
two runs agree has no fraction: it is NaN, counted, and never divided by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

RELATIVE_GAP: Final = 1e-4
"""Runs closer than this share of the metric's size agree: below it fp32 noise would be divided by noise."""


def undefined(base: NDArray[Any], source: NDArray[Any]) -> NDArray[np.bool_]:
    """True for pairs whose base and source metrics agree, so that no fraction exists."""
    size = np.maximum(1.0, np.maximum(np.abs(base), np.abs(source)))
    return ~(np.abs(source - base) > RELATIVE_GAP * size)


def fraction(value: NDArray[Any], base: NDArray[Any], source: NDArray[Any]) -> NDArray[Any]:
    """(value − base)/(source − base) over [pair, …]; NaN where the pair's two runs agree."""
    shape = (-1, *[1] * (value.ndim - 1))
    gap = np.where(undefined(base, source), np.nan, source - base)
    return (value - base.reshape(shape)) / gap.reshape(shape)


def long_frame(axes: Mapping[str, Sequence[Any]], columns: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    """One row per combination of the axes, in the order of the arrays' own axes; arrays broadcast over the axes."""
    import pandas as pd

    shape = tuple(len(values) for values in axes.values())
    index = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
    frame = index.to_frame(index=False)
    for name, array in columns.items():
        frame[name] = np.broadcast_to(array, shape).reshape(-1)
    return frame


def summary(
    frame: pd.DataFrame, by: Sequence[str], value: str, *, over: str = "pair", level: float = 0.95, seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:  # fmt: skip
    """Mean of `value` over pairs for every combination of `by`, with a bootstrap interval (`low`, `high`) and `n`.

    Pairs are resampled whole, the same draws for all cells; percentile interval. `n` counts the pairs with a defined
    value; a cell with fewer than two has no interval.
    """
    import pandas as pd

    keys = list(by)
    table = frame.pivot_table(index=over, columns=keys, values=value, aggfunc="mean", dropna=False, observed=False)
    matrix = table.to_numpy(float)
    present = np.isfinite(matrix)
    filled = np.where(present, matrix, 0.0)
    draws = np.random.default_rng(seed).multinomial(len(matrix), np.full(len(matrix), 1 / len(matrix)), size=resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (draws @ filled) / (draws @ present.astype(float))
        mean = filled.sum(0) / present.sum(0)
    tail = (1 - level) / 2
    low, high = np.full(len(mean), np.nan), np.full(len(mean), np.nan)
    enough = present.sum(0) > 1
    if enough.any():
        low[enough], high[enough] = np.nanquantile(means[:, enough], [tail, 1 - tail], axis=0)
    cells = table.columns.to_frame(index=False) if len(keys) > 1 else pd.DataFrame({keys[0]: table.columns})
    cells.columns = keys
    cells["mean"], cells["low"], cells["high"], cells["n"] = mean, low, high, present.sum(0)
    return cells[cells["n"] > 0].reset_index(drop=True)
