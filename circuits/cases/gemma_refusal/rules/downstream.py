"""How is the direction used: the hypotheses about lens, unembedding, null space and clamped component."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from circuits.case.condition import HALF, Condition, Rows, Side, condition, verdict
from circuits.report import Verdict
from circuits.stats import ALPHA
from circuits.stats.cluster import cluster_sums
from circuits.stats.interval import effective, resampling, widened
from circuits.tables import SIDES

Array = npt.NDArray[np.float64]

LINEAR: Final = 0.9
"""R² from which a curve is called a line."""
LATE: Final = "late layers turn the direction into the metric"
UNEMBEDDED: Final = "the direction is not unembedded"
NULL_SPACE: Final = "the direction does not hide in the unembedding's null space"
FOLLOWS: Final = "the metric follows the direction"
LINE: Final = "the metric is linear in the direction's component"
HYPOTHESES: Final = {
    "lens": (LATE,), "unembedding": (UNEMBEDDED,), "null-space": (NULL_SPACE,), "clamping": (FOLLOWS, LINE),
}  # fmt: skip
"""Section id -> the hypotheses that rest on it; attribution has none of its own."""
_DRAWS: Final = 10_000


def unmeasured(section: str, reason: str) -> list[Verdict]:
    """A number that does not exist decides nothing."""
    return [Verdict(name, "undecided", f"not measured: {reason}", section) for name in HYPOTHESES.get(section, ())]


def late_layers(gap: Rows, late: Sequence[int], null: Array) -> Verdict:
    """More than half of the lens's final difference is added while the late layers run, and more than by chance.

    `gap` has the difference per pair and `layer` of one reading, `null` the mean differences [direction, depth] along
    random directions: by chance is the upper end of the middle 95 % of what these gain there.
    """
    if not late:
        return Verdict(LATE, "undecided", "there is no group called late", "lens")
    start, stop = late[0], late[-1] + 1
    (before, clusters), (after, _), (final, _) = (
        gap.per_pair("value", layer=at) for at in (start, stop, null.shape[1] - 1)
    )
    end = condition(final, "difference at the end", "at least", 0.0, clusters=clusters)
    if end.holds is not True:
        return Verdict(LATE, "undecided", f"no difference in the end that could be shared out: {end.text}", "lens")
    by_chance = float(np.quantile(null[:, stop] - null[:, start], 0.975))
    name = "added there, against the most that 95 % of random directions gain,"
    added = condition(after - before, name, "at least", by_chance, clusters=clusters)
    return verdict(LATE, "lens", [share_added(gap, late, null.shape[1] - 1, HALF), added])


def share_added(gap: Rows, late: Sequence[int], final: int, bound: float) -> Condition:
    """Share of the mean final difference that is added between entering the first of some layers and leaving the last."""
    layers = (late[0], late[-1] + 1, final)
    found = [gap.per_pair("value", layer=at) for at in layers]
    values, clusters = np.stack([values for values, _ in found], axis=1), found[0][1]
    return of_means(
        values, lambda mean: (mean[:, 1] - mean[:, 0]) / mean[:, 2],
        f"share of the final difference added by {layers_named(late)}", "at least", bound, clusters,
    )  # fmt: skip


def layers_named(layers: Sequence[int]) -> str:
    """`layers 5 to 7`, or `layer 5`."""
    return f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"


def not_unembedded(by_pair: Rows, closest: Mapping[str, Any], reach: float) -> Verdict:
    """The token closest to the direction is no closer than 95 % of random directions stay to every token.

    `closest` is that token's row, `by_pair` has each pair's part in the cosine with every extreme token (`form`, `id`),
    `reach` is the |cosine| that 95 % of random directions keep.
    """
    values, clusters = by_pair.per_pair("value", form=closest["form"], id=closest["id"])
    if len(values) < 2:
        return Verdict(UNEMBEDDED, "undecided", "a direction of one pair has no spread", "unembedding")
    sign = 1.0 if closest["cosine"] >= 0 else -1.0
    name = f"|cosine| with {closest['token']}, the largest, against the largest of 95 % of random directions,"
    return verdict(UNEMBEDDED, "unembedding", [condition(sign * values, name, "below", reach, clusters=clusters)])


def not_in_null_space(by_k: Mapping[int, float], d_model: int, noise: float) -> Verdict:
    """In no subspace of smallest singular values lies more of the direction than of random ones, all counted together.

    `by_k` has the share of the squared norm in the k smallest, `noise` the share that is the noise of the pairs: a
    direction of which that is half is random itself, and says nothing.
    """
    k, p = most_hidden(by_k, d_model)
    said = (
        f"{np.sqrt(by_k[k]):.2f} of the norm in the {k} smallest of {d_model} singular directions, of {len(by_k)} such "
        f"subspaces the one with the most beyond chance (p = {p:.2g} for all of them together)"
    )
    rule = f"p that a random direction has as much in any of them above {ALPHA:g}"
    if not noise < HALF:
        why = "mostly noise of the pairs" if noise >= HALF else "of one pair: how much of it is noise is not known"
        return Verdict(NULL_SPACE, "undecided", f"the direction is {why}; {said}", "null-space", rule)
    return Verdict(NULL_SPACE, "contradicted" if p <= ALPHA else "supported", said, "null-space", rule)


def most_hidden(by_k: Mapping[int, float], d_model: int, *, seed: int = 0) -> tuple[int, float]:
    """The k whose share of the squared norm is the least likely so large, and p for having looked at every k.

    The share of a random direction in k of d dimensions is Beta(k/2, (d − k)/2); those of nested subspaces are sums of
    the same independent χ², drawn here.
    """
    ks = np.array(sorted(by_k))
    of_chance = special.betaincc(ks / 2, (d_model - ks) / 2, np.clip([by_k[k] for k in ks], 0, 1))
    parts = np.random.default_rng(seed).chisquare(np.diff([0, *ks, d_model]), (_DRAWS, len(ks) + 1))
    drawn = (parts.cumsum(1) / parts.sum(1, keepdims=True))[:, :-1]
    least = special.betaincc(ks / 2, (d_model - ks) / 2, drawn).min(1)
    return int(ks[of_chance.argmin()]), (1 + int((least <= of_chance.min()).sum())) / (1 + _DRAWS)


def metric_follows(clamped: Rows, null: Array) -> Verdict:
    """From the lowest to the highest clamp the metric rises, by more than random directions of the same length move it.

    `null` is the mean change of the metric over the same range [side, direction] along each of them, signs ignored. Pushed
    far along anything the metric falls; clean prompts are pushed down and corrupt ones up, so their mean is judged.
    """
    (clean, clusters), (corrupt, _) = (curves(clamped, side)[1:] for side in SIDES)
    moved = (clean[:, -1] - clean[:, 0] + corrupt[:, -1] - corrupt[:, 0]) / 2
    steepest = float(np.abs(null.mean(0)).max())
    name = f"change of the metric over the range of clamps, against the largest of {null.shape[1]} random directions,"
    return verdict(FOLLOWS, "clamping", [condition(moved, name, "at least", steepest, clusters=clusters)])


def metric_linear(clamped: Rows) -> Verdict:
    """A line explains at least nine tenths of the variance of the mean curve, on clean and on corrupt prompts."""
    return verdict(LINE, "clamping", [r_squared(clamped, side) for side in SIDES], "a flat curve has no R²")


def r_squared(clamped: Rows, side: str) -> Condition | None:
    """R² of the line through the mean curve of one side; None for a flat curve, which has none."""
    x, values, clusters = curves(clamped, side)
    x = x - x.mean()

    def of(mean: Array) -> Array:
        rest = mean - mean.mean(1, keepdims=True)
        total = (rest**2).sum(1)
        explained = (rest @ x) ** 2 / (x @ x)
        flat = total <= 1e-12 * np.maximum(1.0, (mean**2).sum(1))
        return np.where(flat, np.nan, explained / np.where(flat, 1.0, total))

    if np.isnan(of(values.mean(0)[None])[0]):
        return None
    return of_means(values, of, f"R² of the {side} prompts' mean curve", "at least", LINEAR, clusters)


def curves(clamped: Rows, side: str) -> tuple[Array, Array, list[int] | None]:
    """The clamps, the metric [pair, clamp] of one side, and the pairs' clusters."""
    table = clamped.frame[clamped.frame["side"] == side].pivot_table(index="pair", columns="clamp", values="value")
    clusters = None if clamped.clusters is None else [clamped.clusters[int(str(p))] for p in table.index]
    return table.columns.to_numpy(float), table.to_numpy(float), clusters


def of_means(
    values: Array,
    of: Callable[[Array], Array],
    name: str,
    side: Side,
    bound: float,
    clusters: Sequence[int] | None = None,
) -> Condition:
    """A condition on what `of` makes of the means [sample, column] of `values` [pair, column]; whole pairs are resampled.

    Percentile interval with Hesterberg's widened tails (`stats.bootstrap_means`). Measured where 95 % is claimed, for R² of
    bent curves and ratios of means: 90 to 97 % for 8 to 52 pairs, 87 % for 4. NaN limits where the pairs say as much as
    fewer than two that are independent.
    """
    sums, sizes = cluster_sums(values, range(len(values)) if clusters is None else clusters)
    estimate = float(of(values.mean(0)[None])[0])
    n = effective(sizes)
    if n < 2:
        return Condition(name, estimate, np.nan, np.nan, side, bound)
    counts = resampling(len(sums), _DRAWS, 0)
    drawn = of((counts @ sums) / (counts @ sizes)[:, None])
    tail = float(special.ndtr(-widened(n, 0.95)))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    right = drawn >= bound if side == "at least" else drawn < bound
    return Condition(name, estimate, float(low), float(high), side, bound, float(right.mean()))
