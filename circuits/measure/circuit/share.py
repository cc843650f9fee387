"""Faithfulness over pairs: a ratio of means, its interval, and the pairs that have no gap.

    over the set   Σ (m(C) − m(∅)) / Σ (m(M) − m(∅))    over pairs with a gap: the ratio of the means
    per pair       (m(C) − m(∅)) / (m(M) − m(∅))

The first is what is called faithfulness everywhere here (as MIB has it); a pair with a small gap cannot carry it away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import UndefinedError
from circuits.frames import fraction, undefined
from circuits.stats import Interval
from circuits.stats.cluster import cluster_sums
from circuits.stats.interval import drawn_intervals, effective, resampling

Numbers = NDArray[np.float64]
LEVEL: Final = 0.95
RESAMPLES: Final = 10_000


@final
@dataclass(frozen=True, eq=False)
class Gap:
    """The metric of the clean run and of the ablation run, per pair, and the template of each pair where some share one."""

    clean: Float[Tensor, " pair"]
    ablated: Float[Tensor, " pair"]
    clusters: Sequence[int] | None
    ablation: str

    @cached_property
    def defined(self) -> NDArray[np.bool_]:
        """The pairs that have a gap. Raises UndefinedError where none has one, or where gaps cancel in the mean."""
        clean, ablated = _numbers(self.clean), _numbers(self.ablated)
        kept = ~undefined(ablated, clean)
        if not kept.any():
            raise UndefinedError(
                f"none of {len(kept)} pairs has a gap between the clean run and the {self.ablation} ablation of all edges "
                f"(metric {clean.mean():.3g} and {ablated.mean():.3g}): there is nothing to be faithful to; choose another "
                "ablation, metric or pairs"
            )
        if undefined(ablated[kept].mean(keepdims=True), clean[kept].mean(keepdims=True)).any():
            raise UndefinedError(
                f"the gaps of {int(kept.sum())} pairs under {self.ablation} ablation cancel in the mean; give pairs whose "
                "clean run has the larger metric"
            )
        return kept

    @property
    def size(self) -> Numbers:
        """m(M) − m(∅) of the pairs that have one."""
        return (_numbers(self.clean) - _numbers(self.ablated))[self.defined]

    @property
    def names(self) -> list[int] | None:
        """The cluster of each of these pairs."""
        if self.clusters is None:
            return None
        return [name for name, kept in zip(self.clusters, self.defined, strict=True) if kept]

    def per_pair(self, value: Float[Tensor, "pair ..."]) -> Numbers:
        """Faithfulness of every pair, NaN without a gap; axes as in `value`."""
        return fraction(_numbers(value), _numbers(self.ablated), _numbers(self.clean))

    def above(self, value: Float[Tensor, "pair ..."]) -> Numbers:
        """M − m(∅) of the pairs that have a gap."""
        found = _numbers(value)
        return (found - _numbers(self.ablated).reshape(-1, *[1] * (found.ndim - 1)))[self.defined]

    def difference(self, one: Float[Tensor, "pair ..."], other: Float[Tensor, "pair ..."]) -> Numbers:
        """The first less the second, in units of the metric, of the pairs that have a gap."""
        return (_numbers(one) - _numbers(other))[self.defined]

    def intervals(self, numerator: Numbers, *, seed: int = 0) -> list[Interval]:
        """Σ numerator / Σ gap of every column [pair, cell], with its interval: pairs (or whole clusters) drawn again.

        The BCa bootstrap of `stats` for a ratio, widened for gaps of unequal size. No limits where one pair (or cluster)
        holds most of the gap, or where a cluster's gaps cancel.
        """
        sums, sizes = self._summed(numerator)
        if len(sizes) < 2 or np.abs(sizes).min() < 1e-9 * np.abs(sizes).max() or effective(sizes) < 2:
            why = "too few pairs share the gap: no interval"
            means = sums.sum(0) / sizes.sum()
            return [Interval(float(m), np.nan, np.nan, LEVEL, len(numerator), why) for m in means]
        method = f"BCa bootstrap of a ratio of means, {self._drawn(len(sizes))}"
        return drawn_intervals(sums, sizes, len(numerator), method, level=LEVEL, resamples=RESAMPLES, seed=seed)

    def drawn(self, numerator: Numbers, *, seed: int = 0) -> Numbers:
        """The same ratios in every draw of the bootstrap, [sample, cell]; draws without a gap are left out."""
        sums, sizes = self._summed(numerator)
        counts = resampling(len(sizes), RESAMPLES, seed)
        whole = counts @ sizes
        kept = np.abs(whole) > 1e-9 * np.abs(sizes).max()
        return (counts[kept] @ sums) / whole[kept, None]

    def _summed(self, numerator: Numbers) -> tuple[Numbers, Numbers]:
        both = np.concatenate([numerator, self.size[:, None]], 1)
        if self.names is not None:
            both = cluster_sums(both, self.names)[0]
        return both[:, :-1], both[:, -1]

    def _drawn(self, n: int) -> str:
        return f"{n} pairs" if self.clusters is None else f"{n} clusters"


def _numbers(t: Float[Tensor, ...]) -> Any:
    return t.double().numpy()
