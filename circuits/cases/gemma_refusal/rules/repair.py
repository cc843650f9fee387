"""Is a loss made up? The hypotheses about the ablated direction and about the noised head that matters most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from circuits.case.condition import Condition, Rows, minus, pick, verdict
from circuits.frames import ROUNDING
from circuits.report import Verdict
from circuits.stats import MeanAbove, survival

DIRECTION: Final = "the model repairs the loss of the direction"
HEAD: Final = "later components repair the loss of the largest head"
HYPOTHESES: Final = {"self-repair": DIRECTION, "repair-identity": HEAD}
"""Section id -> the hypothesis that rests on it."""


def unmeasured(section: str, reason: str) -> Verdict:
    """A number that does not exist decides nothing."""
    return Verdict(HYPOTHESES[section], "undecided", minus(f"not measured: {reason}"), section)


def repairs_direction(last: Rows, everywhere: Rows, null: Sequence[float]) -> Verdict:
    """Of the direction, removed once at the last position, later blocks make up more than nothing and than of any other.

    `last` and `everywhere` have one row per pair: the share `repaired` in the final residual of the clean prompt, mean
    over the layers entered, ablated at the last position and at all. `null`: the mean of the same share, of every random
    direction; the largest is to be exceeded, and what rounding leaves of zero.
    """
    name = "share of the loss made up"
    there = pick(last, name, "at least", max([ROUNDING, *null]), value="repaired")
    if there is None or math.isnan(there.low):
        missing = "too little of the direction is removed at the last position for a share of it" if there is None else (
            f"{name} {there.mean:.2f}, without an interval: too few pairs that do not depend on each other"
        )  # fmt: skip
        return Verdict(DIRECTION, "undecided", minus(missing), "self-repair")
    beside = [] if null else [None]
    found = verdict(DIRECTION, "self-repair", [there, *beside], "no random direction has such a share")
    numbers = [found.numbers]
    if null:
        numbers.append(f"largest of {len(null)} random directions {max(null):.2f}")
    again = pick(everywhere, "ablated at all positions", "at least", max([ROUNDING, *null]), value="repaired")
    if again is not None and math.isfinite(again.low):
        numbers.append(again.text)
    return Verdict(DIRECTION, found.verdict, minus("; ".join(numbers)), "self-repair", found.rule)


def later_repairs(sums: Rows, row: Mapping[str, Any], component: str) -> Verdict:
    """Later components make up a share of the head's direct effect that is above zero and above that of its neighbours.

    `row` is the summary's row of all later components: `ratio` = mean later change over −mean direct change, its limits,
    and the largest (`null_high`) of the same ratio over the `null_n` other heads of the layer whose direct effect is of
    comparable size. `sums` has the per-pair `value` of `direct` and `later`.
    """
    if not all(math.isfinite(row[name]) for name in ("ratio", "ratio_low", "ratio_high")):
        missing = f"the direct effect of {component} is next to nothing: there is no share of it to make up"
        return Verdict(HEAD, "undecided", missing, "repair-identity")
    others = int(row["null_n"])
    bound = max(ROUNDING, row["null_high"]) if others else ROUNDING
    direct, clusters = sums.per_pair("value", sum="direct")
    later, _ = sums.per_pair("value", sum="later")
    # later/−direct ≥ bound, without a quotient: the mean of one number per pair is at least zero
    sign = 1.0 if direct.mean() < 0 else -1.0
    keeps = survival((sign * (later + bound * direct))[:, None], MeanAbove(0.0), clusters=clusters)
    name = f"share of the direct effect of {component} made up later"
    limits = (row["ratio"], row["ratio_low"], row["ratio_high"])
    there = Condition(name, *limits, "at least", bound, float(keeps.share[0]))
    beside = [] if others else [None]
    found = verdict(
        HEAD, "repair-identity", [there, *beside], "no other head of its layer has a direct effect of comparable size"
    )
    largest = (
        f"; largest of {others} other head{'s' * (others != 1)} of its layer {row['null_high']:.2f}" if others else ""
    )
    return Verdict(HEAD, found.verdict, minus(found.numbers + largest), "repair-identity", found.rule)
