"""Would other prompts have found the same components? How often a claim holds when the pairs are drawn again.

    share[cell] = share of bootstrap resamples of the pairs in which the claim holds for the cell

A cell that just meets its claim keeps it about half of the time, whatever its truth, and a cell without effect can keep
it now and then: a share is how stable a finding is, not how likely it is to be true. The error rate is `max_t`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from circuits.errors import UndefinedError
from circuits.stats.checked import Array
from circuits.stats.flips import TIE, Sweep, sweep
from circuits.stats.interval import resampling
from circuits.stats.significance import ALPHA

_AT_ONCE: Final = 1 << 21
"""Floats held at once (16 MB), several times over."""


@final
@dataclass(frozen=True)
class MeanAtLeast:
    """|mean effect| ≥ threshold."""

    threshold: float

    def __str__(self) -> str:
        return f"|mean| ≥ {self.threshold:g}"


@final
@dataclass(frozen=True)
class MeanAbove:
    """mean effect ≥ bound, its sign counted."""

    bound: float

    def __str__(self) -> str:
        return f"mean ≥ {self.bound:g}"


@final
@dataclass(frozen=True)
class AmongLargest:
    """|mean effect| among the k largest of all cells and not zero; cells tied at the border all count."""

    k: int

    def __str__(self) -> str:
        return f"|mean| among the {self.k} largest"


@final
@dataclass(frozen=True)
class SurvivesMaxT:
    """max-T p ≤ alpha, each resample judged at the critical value of the pairs as measured."""

    alpha: float = ALPHA

    def __str__(self) -> str:
        return f"max-T p ≤ {self.alpha:g}, at the critical value of all pairs"


Claim = MeanAtLeast | MeanAbove | AmongLargest | SurvivesMaxT


@final
@dataclass(frozen=True, eq=False)
class Survival:
    """The share of resamples that keep the claim, per cell; and whether the cell makes it on all pairs."""

    share: Array
    held: npt.NDArray[np.bool_]
    claim: str
    n: int
    """Pairs, or clusters of them, that were drawn."""
    resamples: int


def survival(
    values: Any,
    claim: Claim,
    *,
    present: Any = None,
    clusters: Any = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Survival:
    """How often each column of `values` (pair × cell) keeps `claim` when whole pairs, or clusters, are drawn again.

    Where no pair of a cell with gaps (`present`) is drawn, its claim is lost. Raises UndefinedError as `max_t_test`
    does, for a claim no cell can fail or meet (k not between 1 and the number of cells, a threshold that is not
    positive), and for `SurvivesMaxT` with too few pairs for any p ≤ alpha.
    """
    table = sweep(values, present, clusters)
    critical = _critical(table, claim, resamples, seed)
    n, cells = table.sums.shape
    counts = resampling(n, resamples, seed)
    kept = np.zeros(cells)
    step = max(1, _AT_ONCE // cells)
    for start in range(0, resamples, step):
        kept += _holds(counts[start : start + step], table.sums, table.sizes, claim, critical).sum(axis=0)
    held = _holds(np.ones((1, n)), table.sums, table.sizes, claim, critical)[0]
    return Survival(kept / resamples, held, str(claim), n, resamples)


def _holds(
    counts: Array, sums: Array, sizes: Array, claim: Claim, critical: float
) -> npt.NDArray[np.bool_]:
    """(sample, cell): whether the claim holds when row i is drawn counts[sample, i] times."""
    signed = counts @ sums
    total = np.abs(signed)
    if isinstance(claim, MeanAbove):  # a sum of nothing claims nothing
        drawn = counts @ sizes
        return (drawn > 0) & (signed >= claim.bound * drawn - TIE * np.maximum(1.0, total))
    if isinstance(claim, SurvivesMaxT):
        norm = np.sqrt(counts @ sums**2)
        return (norm > 0) & (total > (critical + TIE) * norm)
    drawn = counts @ sizes
    mean = total / np.where(drawn > 0, drawn, np.inf)
    if isinstance(claim, MeanAtLeast):
        return mean >= claim.threshold * (1 - TIE)
    place = mean.shape[1] - claim.k
    border = np.partition(mean, place, axis=1)[:, place, None]
    return (mean > 0) & (mean >= border * (1 - TIE))


def _critical(table: Sweep, claim: Claim, resamples: int, seed: int) -> float:
    """What the claim is judged at: for max-T, the statistic that must be exceeded for p ≤ alpha. Checks the claim."""
    cells = table.sums.shape[1]
    if isinstance(claim, MeanAtLeast):
        if not claim.threshold > 0:
            raise UndefinedError(f"threshold {claim.threshold}: every mean is at least that; write a positive one")
        return 0.0
    if isinstance(claim, MeanAbove):
        return 0.0
    if isinstance(claim, AmongLargest):
        if not 1 <= claim.k < cells:
            raise UndefinedError(f"the {claim.k} largest of {cells} cells: write 1 to {cells - 1}")
        return 0.0
    largest = table.largest(resamples, seed)
    draws = len(largest)
    allowed = claim.alpha * draws if table.exact(resamples) else claim.alpha * (1 + draws) - 1
    hits = int(np.floor(allowed + 1e-9))  # p ≤ alpha with at most so many flips as large
    if hits < 1:
        raise UndefinedError(
            f"cannot reach p ≤ {claim.alpha:g} with {len(table.sums)} pairs and {draws} flips: use more pairs or flips"
        )
    return float(largest[draws - hits - 1])
