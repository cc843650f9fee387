"""Long frames: one row per pair and cell, the axes' names as columns, and their averages with intervals.

`fraction` is defined here once, for every patching measurement: (patched − base)/(source − base), per pair. A pair whose
two runs agree has no fraction: it is NaN, counted, and never divided by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from circuits.stats import Interval, bootstrap_means

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


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def largest(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """The row whose `column` is largest in absolute value."""
    return records(frame.iloc[[int(frame[column].abs().to_numpy().argmax())]])[0]


def summary(
    frame: pd.DataFrame, by: Sequence[str], value: str, *, over: str = "pair", seed: int = 0, resamples: int = 10_000
) -> pd.DataFrame:
    """Mean of `value` over pairs for every combination of `by`, with its 95 % interval (`low`, `high`) and `n`.

    Pairs are resampled whole, the same draws for all cells (`stats.bootstrap_means`). `n` counts the pairs with a
    defined value; a cell with one has no interval, a cell with none is left out.
    """
    import pandas as pd

    keys = list(by)
    table = frame.pivot_table(index=over, columns=keys, values=value, aggfunc="mean", dropna=False, observed=False)
    matrix = table.to_numpy(float)
    present = np.isfinite(matrix)
    rows: dict[int, Interval] = {}
    for pattern in np.unique(present, axis=1).T:
        if pattern.any():
            cells = np.flatnonzero((present == pattern[:, None]).all(axis=0))
            found = bootstrap_means(matrix[np.ix_(pattern, cells)], resamples=resamples, seed=seed)
            rows |= dict(zip(cells.tolist(), found, strict=True))
    named = table.columns.to_frame(index=False) if len(keys) > 1 else pd.DataFrame({keys[0]: table.columns})
    named.columns = keys
    there = sorted(rows)
    kept = named.iloc[there].reset_index(drop=True)
    return kept.assign(
        mean=[rows[i].estimate for i in there], low=[rows[i].low for i in there], high=[rows[i].high for i in there],
        n=[rows[i].n for i in there],
    )  # fmt: skip
