"""The first circular harmonic of a curve over angles: how high it is on one side, and where that side is.

    curve(θ) ≈ level + amplitude · cos(θ − phase)       least squares over the angles measured

`share` is the share of the mean curve's variance over these angles that the cosine explains: near 1 there is one axis,
highest at `phase` and lowest opposite; else the curve has more than one side, and an axis says little.

Each prompt has a cosine of its own; the mean curve's is their mean. The amplitude's interval is that of their mean along
the phase found, which the data chose: small amplitudes are too large on average, so `p` flips the signs of whole prompts
(or clusters) and asks how often an amplitude as large appears in any phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy import special

from circuits.errors import UndefinedError
from circuits.stats import mean_interval
from circuits.stats.checked import Array, numbers
from circuits.stats.cluster import cluster_sums
from circuits.stats.interval import effective, resampling, widened


@final
@dataclass(frozen=True)
class Harmonic:
    """One axis of a circle. Limits are 95 %; NaN where they are not known. Angles are degrees, `phase` in 0 to 360."""

    level: float
    amplitude: float
    amplitude_low: float
    amplitude_high: float
    phase: float
    """Where the curve is highest; NaN for a flat one."""
    phase_low: float
    """May be below 0 (and `phase_high` above 360), so that low ≤ phase ≤ high. NaN where the draws point everywhere."""
    phase_high: float
    share: float
    p: float
    n: int


def first_harmonic(
    angles: Sequence[float], values: Any, clusters: Sequence[Any] | None = None, *,
    resamples: int = 10_000, seed: int = 0,
) -> Harmonic:  # fmt: skip
    """The harmonic of `values`, (angle, prompt); `clusters` names the cluster of each prompt.

    The phase's interval is the bootstrap's over whole prompts or clusters, around the circle, widened for few of them as
    `stats.bootstrap_means` is. Raises UndefinedError with fewer than three angles that differ around the circle, and for
    values that are not finite.
    """
    table = numbers(values, "values", axes=2)
    turn = np.deg2rad(numbers(list(angles), "angles"))
    if len(turn) != len(table):
        raise UndefinedError(f"{len(table)} rows of values for {len(turn)} angles; give one row per angle")
    design = np.stack([np.ones_like(turn), np.cos(turn), np.sin(turn)], axis=1)
    if len(turn) < 3 or np.linalg.matrix_rank(design, tol=1e-6) < 3:
        raise UndefinedError("an axis needs three angles that differ around the circle, e.g. 0, 120 and 240")
    n = table.shape[1]
    fitted: Array = np.linalg.pinv(design) @ table  # (level, cos, sin) of every prompt
    level, a, b = (float(x) for x in fitted.mean(axis=1))
    curve = table.mean(axis=1)
    spread = float(((curve - curve.mean()) ** 2).sum())
    flat = spread <= (1e-6 * max(1.0, float(np.abs(curve).max()))) ** 2 * len(curve)
    if flat:
        nan = float("nan")
        return Harmonic(level, float(np.hypot(a, b)), nan, nan, nan, nan, nan, nan, nan, n)
    rest = float(((curve - design @ fitted.mean(axis=1)) ** 2).sum())
    phase = float(np.arctan2(b, a))
    along = fitted[1] * np.cos(phase) + fitted[2] * np.sin(phase)
    height = mean_interval(along, clusters, resamples=resamples, seed=seed)
    low, high, p = _around(fitted[1:].T, phase, clusters, resamples, seed)
    degrees = float(np.rad2deg(phase)) % 360
    return Harmonic(
        level, float(np.hypot(a, b)), height.low, height.high, degrees, degrees + low, degrees + high, 1 - rest / spread,
        p, n,
    )  # fmt: skip


def _around(
    parts: Array, phase: float, clusters: Sequence[Any] | None, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Limits of the phase, in degrees from it, and the sign-flip p of the amplitude; `parts` is (prompt, cos and sin)."""
    sums, sizes = cluster_sums(parts, range(len(parts)) if clusters is None else clusters)
    k = effective(sizes)
    if len(sizes) < 2 or k < 2:
        return float("nan"), float("nan"), float("nan")
    counts = resampling(len(sums), resamples, seed)
    drawn = (counts @ sums) / (counts @ sizes)[:, None]
    away = np.angle((drawn[:, 0] + 1j * drawn[:, 1]) * np.exp(-1j * phase), deg=True)
    low, high = np.quantile(away, [0.025, 0.975]) * widened(k, 0.95) / special.ndtri(0.975)
    if low <= -90 or high >= 90:  # more than half the circle: the draws surround the origin
        low = high = float("nan")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (resamples, len(sums)))
    size = np.hypot(*sums.sum(axis=0))
    flipped = np.hypot(*(signs @ sums).T)
    p = (1 + int((flipped >= size * (1 - 1e-12)).sum())) / (1 + resamples)
    return float(low), float(high), p
