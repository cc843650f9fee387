"""A screen held to the exact effects of everything that it screened: recall, the largest missed, ranks, signs, `verify`.

Intervals are percentiles of a bootstrap of whole templates of pairs, in which exact effects, what counts as large, and
the screen's order are made again: how far a number is that of these prompts. Names are not drawn: all were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from circuits.measure.screens import Screen, Verified, verify
from circuits.stats import Interval

Numbers = NDArray[np.float64]
SHARES: Final = (0.05, 0.02, 0.01)
"""Of the gap: what counts as large."""
DRAWS: Final = 500
SAMPLE: Final = 150
SEEDS: Final = 200


@final
@dataclass(frozen=True, eq=False)
class Compared:
    """A screen and the exact effects of all its names, pair by pair, in the same order."""

    screen: Screen
    exact: Numbers
    """[pair, name]"""
    passes: float
    """Forward passes of all prompts that the exact effects took; likewise their seconds."""
    seconds: float
    own_seconds: float
    draws: int = DRAWS

    @cached_property
    def gap(self) -> Numbers:
        """|source − base| of every pair."""
        return (self.screen.source - self.screen.base).double().abs().numpy()

    @cached_property
    def weights(self) -> Numbers:
        """[draw, pair]: how often a pair is drawn; the first draw is the pairs themselves."""
        n = len(self.exact)
        of = np.unique(self.screen.clusters or range(n), return_inverse=True)[1]
        k = int(of.max()) + 1
        drawn = np.random.default_rng(0).multinomial(k, np.full(k, 1 / k), size=self.draws)
        return np.concatenate([np.ones((1, n)), drawn[:, of]])

    @cached_property
    def sizes(self) -> tuple[Numbers, Numbers]:
        """Mean |score| and mean |exact| of every draw, [draw, name]."""
        return self._means(np.abs(self._score)), self._means(np.abs(self.exact))

    def large(self, share: float) -> NDArray[np.bool_]:
        """[draw, name]: whose exact effect is at least a share of the gap."""
        return self.sizes[1] >= share * self._means(self.gap[:, None])

    def recall(self, share: float, top: int) -> Interval:
        """Of the large effects, the share among the `top` largest scores."""
        size, large = self.sizes[0], self.large(share)
        picked = np.zeros_like(large)
        np.put_along_axis(picked, np.argsort(-size, axis=1, kind="stable")[:, :top], values=True, axis=1)
        return self._interval(_ratio((picked & large).sum(1), large.sum(1)), int(large[0].sum()))

    def missed(self, top: int) -> tuple[str, float]:
        """The largest exact effect outside the top, as a share of the gap."""
        size, exact = (each[0] for each in self.sizes)
        rest = np.argsort(-size, kind="stable")[top:]
        at = int(rest[exact[rest].argmax()])
        return self.screen.names[at], float(exact[at] / self.gap.mean())

    @property
    def correlation(self) -> Interval:
        """Spearman's ρ of mean |score| and mean |exact| over all names."""
        a, b = (stats.rankdata(each, axis=1) for each in self.sizes)
        a, b = (r - r.mean(1, keepdims=True) for r in (a, b))
        return self._interval((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)), a.shape[1])

    def signs(self, share: float) -> Interval | None:
        """Of the large effects, the share whose mean has the sign of the mean score; None for scores without."""
        if not self.screen.signed:
            return None
        large = self.large(share)
        same = self._means(self._score) * self._means(self.exact) > 0
        return self._interval(_ratio((same & large).sum(1), large.sum(1)), int(large[0].sum()))

    @property
    def own_passes(self) -> float:
        """Of the screen: a backward pass counts as two forward."""
        return self.screen.forward_passes + 2 * self.screen.backward_passes

    def verified(self, share: float, top: int, seed: int, sample: int = SAMPLE) -> Verified:
        """What `verify` says with a sample of the rest, at no cost: the exact effects are known."""
        what: Any = self.screen.what
        place = {name: i for i, name in enumerate(what)}
        exact = torch.from_numpy(self.exact).float()
        return verify(
            self.screen, lambda names: exact[:, [place[name] for name in names]], top=top, sample=sample,
            threshold=share * float(self.gap.mean()), seed=seed,
        )  # fmt: skip

    def coverage(self, share: float, top: int, seeds: int = SEEDS) -> tuple[int, int]:
        """Over samples: how many intervals of recall hold the true recall, how many bounds the true number unseen."""
        true, large = self.recall(share, top).estimate, int(self.large(share)[0].sum())
        known: dict[int, tuple[Interval, int]] = {}
        held = bounded = 0
        for seed in range(seeds):
            found = self.verified(share, top, seed)
            seen = int(found.to_names()["large"].sum())
            if seen not in known:  # all that verify says of recall follows from how many it saw
                known[seen] = found.recall, found.most_unseen
            interval, most = known[seen]
            held += holds(interval, true)
            bounded += large - seen <= most
        return held, bounded

    @property
    def _score(self) -> Numbers:
        return self.screen.score.double().numpy()

    def _means(self, values: Numbers) -> Numbers:
        return self.weights @ values / self.weights.sum(1, keepdims=True)

    def _interval(self, drawn: Numbers, n: int) -> Interval:
        kept = drawn[1:][np.isfinite(drawn[1:])]
        low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (np.nan, np.nan)
        return Interval(float(drawn[0]), float(low), float(high), 0.95, n, "percentile bootstrap of templates")


def _ratio(part: Any, whole: Any) -> Numbers:
    """NaN where there is nothing to find."""
    with np.errstate(invalid="ignore"):
        return np.asarray(part / np.where(whole > 0, whole, np.nan), dtype=np.float64)


def holds(interval: Interval, true: float) -> bool:
    """Whether an interval has the truth in it; where no large effect was seen there is none, and nothing is claimed."""
    return not interval.n or bool(interval.low - 1e-9 <= true <= interval.high + 1e-9)


def told(interval: Interval | None) -> str:
    """`0.93 [0.90, 0.96]`, or a dash where there is none."""
    if interval is None or not np.isfinite(interval.estimate):
        return "–"
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def recall_row(found: Compared, share: float, tops: Sequence[int]) -> tuple[str, ...]:
    """Recall of effects of one size among as many names as there are of them, and among every top."""
    n = int(found.large(share)[0].sum())
    recalls = (told(found.recall(share, top)) for top in (n, *tops))
    return (found.screen.method, f"{100 * share:.0f} %", str(n), *recalls)


def other_row(found: Compared, tops: Sequence[int]) -> tuple[str, ...]:
    """The largest missed, ranks, signs of effects of at least 1 %, passes and seconds as ratios to exact."""
    missed = (f"{name}: {100 * size:.1f} %" for name, size in (found.missed(top) for top in tops))
    return (
        found.screen.method, *missed, told(found.correlation), told(found.signs(SHARES[-1])),
        f"{found.passes / found.own_passes:.1f}×", f"{found.seconds / found.own_seconds:.1f}×",
    )  # fmt: skip


def verify_row(found: Compared, share: float, top: int) -> tuple[str, ...]:
    """What one sample said beside the truth, and how often 200 samples hold it."""
    said, true = found.verified(share, top, 0), found.recall(share, top).estimate
    held, bounded = found.coverage(share, top)
    interval = said.recall
    inside = ("yes" if holds(interval, true) else "no") if interval.n else "nothing claimed"
    unseen = int(found.large(share)[0].sum()) - int(said.to_names()["large"].sum())
    return (
        found.screen.method, f"{100 * share:.0f} %", f"{true:.3f}", told(interval), inside,
        f"{held} of {SEEDS}", f"{unseen} / {said.most_unseen}", f"{bounded} of {SEEDS}",
    )  # fmt: skip
