"""A vector as a sum of few directions of a dictionary, chosen greedily: orthogonal matching pursuit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.optimize import nnls

if TYPE_CHECKING:
    from numpy.typing import NDArray


@final
@dataclass(frozen=True)
class Pursued:
    """Directions in the order in which they were chosen; fewer than asked for where no further one helps."""

    chosen: tuple[int, ...]
    coefficients: tuple[float, ...]
    """Of all of them together, for the directions at norm 1."""
    share: tuple[float, ...]
    """Of the squared norm, explained by the first 1, 2, … of them, each time with the best coefficients."""


def unit_rows(atoms: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows at norm 1 (rows of norm zero stay zero, and are never chosen), and their norms."""
    norms = np.linalg.norm(atoms, axis=1)
    return np.divide(atoms, norms[:, None], out=np.zeros_like(atoms), where=norms[:, None] > 1e-8), norms


def pursue(target: NDArray[Any], units: NDArray[Any], k: int, *, nonnegative: bool) -> Pursued:
    """Choose up to `k` of the `units` ([feature, size], rows of norm 1 or 0) whose sum comes near `target`.

    Each step takes the row of the largest cosine with what is left over (largest |cosine| unless `nonnegative`), then
    fits all coefficients again by least squares, non-negative ones where asked for.
    """
    whole, rest = float(target @ target), target
    chosen: list[int] = []
    share: list[float] = []
    fitted: NDArray[Any] = np.zeros(0)
    for _ in range(min(k, len(units))):
        score = units @ rest if nonnegative else np.abs(units @ rest)
        score[chosen] = -np.inf
        best = int(score.argmax())
        if score[best] <= 1e-7 * np.sqrt(whole):
            break
        chosen.append(best)
        some = units[chosen].T
        fitted = nnls(some, target)[0] if nonnegative else np.linalg.lstsq(some, target, rcond=None)[0]
        rest = target - some @ fitted
        share.append(1 - float(rest @ rest) / whole)
    return Pursued(tuple(chosen), tuple(float(x) for x in fitted), tuple(share))
