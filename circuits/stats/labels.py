"""Do the chosen ones differ from the others? Labels shuffled over all of them, or only among those of one stratum."""

from __future__ import annotations

from math import comb, prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from circuits.errors import UndefinedError
from circuits.stats.checked import Array, numbers

_TIE: Final = 1e-12
_AT_ONCE: Final = 1 << 22


def label_p(
    values: Any, chosen: Any, strata: Any | None = None, *, resamples: int = 10_000, seed: int = 0
) -> Array:
    """Two-sided p per column of `values` (unit × cell) that the chosen units have the mean of the others.

    The statistic is the sum over the chosen, less what it is on average; with `strata` (one label per unit) only units of
    one stratum change places, so that differences between strata, such as layers, explain nothing. Sampled labellings
    count the observed one (Phipson and Smyth 2010); all are listed where no more than `resamples` exist. A stratum of
    chosen units alone, or of none, decides nothing. Raises UndefinedError where no unit could change places.
    """
    table = numbers(values, "values", axes=2)
    mark = np.asarray(chosen, dtype=bool)
    groups = np.zeros(len(table)) if strata is None else np.asarray(strata)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    mixed = [m for m in members if 0 < mark[m].sum() < len(m)]
    if not mixed:
        raise UndefinedError("no stratum holds both chosen units and others: there is nothing to compare")
    kept = np.concatenate(mixed)
    centred = np.zeros_like(table)
    for m in mixed:
        centred[m] = table[m] - table[m].mean(axis=0)
    observed = np.abs(mark[kept].astype(float) @ centred[kept])
    least = observed - _TIE * np.abs(centred[kept]).sum(axis=0)
    total = prod(comb(len(m), int(mark[m].sum())) for m in mixed)
    if total <= resamples:
        labels = _all(mixed, mark, len(table))
        hits, draws = (np.abs(labels[:, kept] @ centred[kept]) >= least).sum(axis=0), len(labels)
        return hits / draws
    rng = np.random.default_rng(seed)
    hits, step = np.zeros(table.shape[1]), max(1, _AT_ONCE // max(table.shape))
    for start in range(0, resamples, step):
        labels = _some(mixed, mark, len(table), min(step, resamples - start), rng)
        hits += (np.abs(labels[:, kept] @ centred[kept]) >= least).sum(axis=0)
    return (1 + hits) / (1 + resamples)


def _some(
    mixed: list[npt.NDArray[np.intp]], mark: npt.NDArray[np.bool_], size: int, draws: int, rng: np.random.Generator
) -> Array:
    labels = np.zeros((draws, size))
    for m in mixed:
        labels[:, m] = rng.permuted(np.tile(mark[m].astype(float), (draws, 1)), axis=1)
    return labels


def _all(mixed: list[npt.NDArray[np.intp]], mark: npt.NDArray[np.bool_], size: int) -> Array:
    from itertools import combinations, product

    choices = [list(combinations(m.tolist(), int(mark[m].sum()))) for m in mixed]
    rows = [[i for some in pick for i in some] for pick in product(*choices)]
    labels = np.zeros((len(rows), size))
    labels[np.arange(len(rows))[:, None], np.array(rows)] = 1.0
    return labels
