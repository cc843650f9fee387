"""Long frames: one row per pair and cell, the axes' names as columns, and their averages with intervals.

`fraction` is defined here once, for every patching measurement: (patched − base)/(source − base), per pair. A pair whose
two runs agree has no fraction: it is NaN, counted, and never divided by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from circuits.errors import UndefinedError
from circuits.stats import ALPHA, Interval, max_t_test, mean_intervals

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

RELATIVE_GAP: Final = 1e-4
"""Runs closer than this share of the metric's size agree: below it fp32 noise would be divided by noise."""

ROUNDING: Final = 1e-5
"""Fractions up to this are what fp32 leaves of zero: the error of a metric over a gap that is worth dividing by."""


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


def cells(
    frame: pd.DataFrame, by: Sequence[str], value: str, *, over: str = "pair"
) -> tuple[pd.DataFrame, NDArray[np.float64], list[Any]]:
    """The combinations of `by` (one row each), `value` as [pair, cell] with NaN where undefined, and the pairs' names.

    A cell without a single defined value is left out. What `stats` asks for: its `present` is `isfinite` of this.
    """
    keys = list(by)
    means: pd.Series[float] = frame.groupby([*keys, over], observed=True)[value].mean()
    # pivot_table would list every combination of the keys, most of which are not there
    table = means.unstack(over).dropna(how="all")  # noqa: PD010  [cell, pair]
    return table.index.to_frame(index=False), table.to_numpy(float).T, list(table.columns)


def summary(
    frame: pd.DataFrame, by: Sequence[str], value: str, *, over: str = "pair", clusters: Sequence[Any] | None = None,
    seed: int = 0, resamples: int = 10_000,
) -> pd.DataFrame:  # fmt: skip
    """Mean of `value` over pairs for every combination of `by`, with its 95 % interval (`low`, `high`) and `n`.

    Pairs are resampled whole, the same draws for all cells (`stats.bootstrap_means`); with `clusters`, one name per
    pair in the pairs' order, whole clusters are (`stats.cluster_bootstrap_means`). `n` counts the pairs with a defined
    value; a cell with one has no interval, a cell with none is left out.
    """
    named, matrix, pairs = cells(frame, by, value, over=over)
    names = _one_each(clusters, pairs)
    present = np.isfinite(matrix)
    found: list[Interval] = [Interval(np.nan, np.nan, np.nan, 0.95, 0, "")] * matrix.shape[1]
    for pattern in np.unique(present, axis=1).T:
        these = np.flatnonzero((present == pattern[:, None]).all(axis=0))
        kept = None if names is None else [name for name, there in zip(names, pattern, strict=True) if there]
        intervals = mean_intervals(matrix[np.ix_(pattern, these)], kept, resamples=resamples, seed=seed)
        for cell, interval in zip(these, intervals, strict=True):
            found[cell] = interval
    return named.assign(
        mean=[i.estimate for i in found], low=[i.low for i in found], high=[i.high for i in found],
        n=[i.n for i in found],
    )  # fmt: skip


def sweep_summary(
    frame: pd.DataFrame, by: Sequence[str], value: str = "fraction", *, clusters: Sequence[Any] | None = None,
    seed: int = 0, resamples: int = 10_000,
) -> pd.DataFrame:  # fmt: skip
    """`summary` of a whole sweep, with what stands against chance: `p`, `least_p`, `survives` and `note`.

    `p` is adjusted for all cells of the table (`stats.max_t_test`: the signs of whole pairs, or clusters, are flipped);
    `least_p` is the smallest the cell's pairs allow, and `survives` says p ≤ .05. Where they are too few for any p to
    be that small, p is NaN, because 1 would read as evidence of nothing, and `note` says so; it also names cells that
    are zero or the same in every pair.
    Effects of at most `ROUNDING` are zeros to the test, because rounding has a sign too. The null is an effect
    symmetric about zero over pairs.
    """
    table = summary(frame, by, value, clusters=clusters, seed=seed, resamples=resamples)
    _, matrix, pairs = cells(frame, by, value)
    present = np.isfinite(matrix)
    values = np.where(present & (np.abs(matrix) > ROUNDING), matrix, 0.0)
    names = _one_each(clusters, pairs)
    tested = max_t_test(values, present=present, clusters=names, seed=seed, resamples=resamples) if len(table) else []
    return table.assign(
        p=[cell.p if cell.reachable() or cell.n == cell.zeros else np.nan for cell in tested],
        least_p=[cell.least for cell in tested],
        survives=[cell.significant() for cell in tested], note=[cell.note() for cell in tested],
    )  # fmt: skip


def said_of_dots(table: pd.DataFrame, clusters: Sequence[Any] | None = None) -> str:
    """What a dot on a map of this sweep means, or why there can be none; one line for its caption.

    `clusters` names the template of each pair, where whole templates were flipped.
    """
    unit, n = ("pair", int(table["n"].max())) if clusters is None else ("template", len(set(clusters)))
    if (table["least_p"] > ALPHA).all():
        least = table["least_p"].min()
        return f"no dots: {n} {unit}{'s' * (n != 1)} cannot reach p ≤ {ALPHA:g} (least {least:.3g})"
    marked = int(table["survives"].sum())
    return f"● p ≤ {ALPHA:g} over all {len(table)} cells (max-T, signs of whole {unit}s flipped): {marked}"


def _one_each(clusters: Sequence[Any] | None, pairs: Sequence[Any]) -> list[Any] | None:
    """`clusters` as a list. Raises UndefinedError where they are not one per pair."""
    if clusters is None:
        return None
    if len(clusters) != len(pairs):
        raise UndefinedError(f"{len(clusters)} clusters named for {len(pairs)} pairs; name the cluster of each pair")
    return list(clusters)
