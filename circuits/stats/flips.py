"""Sign flips of a whole sweep: whole pairs (or clusters of them) change sign; each flip gives its largest statistic.

    s[cell] = |Σ x| / √Σ x²

over pairs: it grows with |t|, and is about the size of a standard normal number where there is no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from circuits.errors import UndefinedError
from circuits.stats.checked import Array, numbers
from circuits.stats.cluster import cluster_sums

TIE: Final = 1e-11
"""Difference below which two statistics are one, added in another order."""
_SAME: Final = 1e-12
"""Spread, relative to the size of the values, below which they are one number."""
_AT_ONCE: Final = 1 << 22
"""Floats held at once (32 MB)."""


@final
@dataclass(frozen=True)
class Sweep:
    """What can change sign: one row per pair or cluster, one column per cell; absent values are zero."""

    sums: Array
    """Over the pairs of each row."""
    sizes: Array
    """How many of them have a value."""

    @property
    def there(self) -> npt.NDArray[np.bool_]:
        """False where no pair of the row has a value."""
        return self.sizes > 0

    @property
    def scaled(self) -> Array:
        """Rows over √Σx², so that a column's sum is its statistic; zeros where the whole column is zero."""
        norm = np.sqrt((self.sums**2).sum(axis=0))
        return self.sums / np.where(norm > 0, norm, 1.0)

    @property
    def statistic(self) -> Array:
        """The statistic of every cell as measured."""
        return np.abs(self.scaled.sum(axis=0))

    @property
    def n(self) -> npt.NDArray[np.intp]:
        """Rows with a value, per cell."""
        return self.there.sum(axis=0)

    @property
    def zeros(self) -> npt.NDArray[np.intp]:
        """Rows whose value is exactly zero, per cell."""
        return (self.there & (self.sums == 0)).sum(axis=0)

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Cells with the same number in every row that has one."""
        top = np.where(self.there, self.sums, -np.inf).max(axis=0)
        bottom = np.where(self.there, self.sums, np.inf).min(axis=0)
        return top - bottom <= _SAME * np.maximum(np.abs(top), np.abs(bottom))

    def largest(self, resamples: int, seed: int) -> Array:
        """The largest s of all cells under every flip, sorted; the flips are those of `exact`, or drawn."""
        scaled = self.scaled
        n, cells = len(scaled), scaled[0].size
        flips = _all(n, cells) if self.exact(resamples) else _some(n, cells, resamples, seed)
        return np.sort(np.concatenate([np.abs(signs @ scaled).max(axis=1) for signs in flips]))

    def exact(self, resamples: int) -> bool:
        """Whether all flips that differ are no more than `resamples`: then they are listed."""
        return len(self.sums) <= 1 + int(np.log2(resamples))


def sweep(values: Any, present: Any = None, clusters: Any = None) -> Sweep:
    """`values` (pair × cell) as rows that change sign together; not read where `present` is False.

    Raises UndefinedError without pairs, where values are not finite, for a cell without pairs, and where `present` or
    `clusters` do not fit the values.
    """
    if present is None:
        table = numbers(values, "values", axes=2)
        there = np.ones(table.shape, dtype=bool)
    else:
        there = np.asarray(present, dtype=bool)
        if there.shape != np.shape(values):
            raise UndefinedError(f"present has shape {there.shape}, the values {np.shape(values)}")
        table = numbers(np.where(there, values, 0.0), "values", axes=2)
    empty = int((~there.any(axis=0)).sum())
    if empty:
        raise UndefinedError(f"{empty} of {table[0].size} cells have no pair at all; leave them out")
    if clusters is None:
        return Sweep(table, there.astype(np.float64))
    return Sweep(cluster_sums(table, clusters)[0], cluster_sums(there.astype(np.float64), clusters)[0])


def _all(n: int, cells: int) -> Iterator[Array]:
    """All flips that leave the last row as it is: the other half gives the same sizes."""
    step = max(1, _AT_ONCE // max(n, cells))
    for start in range(0, 1 << (n - 1), step):
        yield _signs(np.arange(start, min(start + step, 1 << (n - 1)))[:, None] >> np.arange(n) & 1)


def _some(n: int, cells: int, resamples: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(n, cells))
    for start in range(0, resamples, step):
        yield _signs(rng.integers(2, size=(min(step, resamples - start), n)))


def _signs(bits: npt.NDArray[np.int64]) -> Array:
    return np.where(bits == 1, -1.0, 1.0)
