"""What each hypothesis needs to hold: small explicit rules over summaries, fixed before the numbers are seen.

Every condition compares an interval with a number: it holds when the whole interval is on the right side, fails when the
whole interval is on the wrong side, and is open otherwise. A hypothesis is supported when all its conditions hold,
contradicted when one fails, undecided otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import pandas as pd

from circuits.frames import largest, records
from circuits.report import Verdict
from circuits.sites import Site

HALF = 0.5


@final
@dataclass(frozen=True)
class Condition:
    """One number with its interval, and the side of `bound` it has to be on."""

    name: str
    mean: float
    low: float
    high: float
    side: Literal["at least", "below"]
    bound: float

    @property
    def holds(self) -> bool | None:
        """True, False, or None where the interval spans the bound or does not exist."""
        above, below = bool(self.low >= self.bound), bool(self.high < self.bound)
        if not (above or below):
            return None
        return above if self.side == "at least" else below

    @property
    def text(self) -> str:
        """`early MLP at subject .65 [.59, .71]`."""
        return minus(f"{self.name} {self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]")

    @property
    def rule(self) -> str:
        """`early MLP at subject at least 0.5`."""
        return f"{self.name} {self.side} {self.bound:.2g}"


def minus(text: str) -> str:
    """Hyphens before numbers as minus signs, and no minus before zero."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", re.sub(r"-(0\.0+)(?!\d)", r"\1", text))


def verdict(hypothesis: str, section: str, conditions: Sequence[Condition | None], missing: str = "") -> Verdict:
    """Combine conditions; None stands for a number that does not exist here (`missing` says why)."""
    there = [c for c in conditions if c is not None]
    held = [c.holds for c in there]
    if any(h is False for h in held):
        ruling = "contradicted"
    elif all(held) and len(there) == len(conditions) and there:
        ruling = "supported"
    else:
        ruling = "undecided"
    numbers = "; ".join(c.text for c in there)
    if len(there) < len(conditions):
        numbers = "; ".join(part for part in (numbers, missing) if part)
    return Verdict(hypothesis, ruling, numbers, section, " and ".join(c.rule for c in there))


def pick(
    table: pd.DataFrame, name: str, side: Literal["at least", "below"], bound: float, **where: Any
) -> Condition | None:
    """The row of a summary that `where` names, as a condition; None where there is no such row."""
    rows = [r for r in records(table) if all(r[column] == value for column, value in where.items())]
    if len(rows) != 1:
        return None
    return Condition(name, rows[0]["mean"], rows[0]["low"], rows[0]["high"], side, bound)


def direction_removes(rates: pd.DataFrame) -> Verdict:
    """Ablating the direction takes the refusals of the clean prompts away, a random direction does not."""

    def rate(setting: str, side: Literal["at least", "below"]) -> Condition:
        row = next(r for r in records(rates) if (r["setting"], r["side"]) == (setting, "clean"))
        return Condition(f"refusal rate {setting}", row["refusal_rate"], row["rate_low"], row["rate_high"], side, HALF)

    hypothesis = "refusal depends on one direction"
    conditions = [rate("baseline", "at least"), rate("intervened", "below"), rate("control", "at least")]
    if conditions[0].holds is not True:  # nothing to remove: the question does not arise
        text = "; ".join(c.text for c in conditions)
        return Verdict(hypothesis, "undecided", f"the clean prompts are not refused: {text}", "behaviour")
    return verdict(hypothesis, "behaviour", conditions)


def early_enrichment(noised: pd.DataFrame) -> Verdict:
    """Early MLPs are needed at the subject, and early attention moves nothing that is needed yet."""
    return verdict(
        "early layers enrich the subject", "groups",
        [
            pick(noised, "early MLPs at subject", "at least", HALF, group="early", kind="mlp_out", position="subject"),
            pick(noised, "early attention at last", "below", HALF, group="early", kind="attn_out", position="last"),
        ],
        "there is no group called early",
    )  # fmt: skip


def middle_handover(noised: pd.DataFrame, denoised: pd.DataFrame, groups: dict[str, tuple[int, ...]]) -> Verdict:
    """The last position has nothing where the middle begins and everything where it ends, through attention."""
    middle = groups.get("middle", ())
    start, stop = (middle[0], middle[-1] + 1) if middle else (-1, -1)
    return verdict(
        "middle layers hand over to the last position", "residual",
        [
            pick(denoised, f"last position entering L{start}", "below", HALF, layer=start, pos=-1),
            pick(denoised, f"last position entering L{stop}", "at least", HALF, layer=stop, pos=-1),
            pick(noised, "middle attention at last", "at least", HALF, group="middle", kind="attn_out", position="last"),
        ],
        "there is no group called middle with layers after it",
    )  # fmt: skip


def middle_writes(gap: pd.DataFrame, groups: dict[str, tuple[int, ...]]) -> Verdict:
    """At least half of the direction's final gap is written while the middle layers run."""
    hypothesis, middle = "middle layers write the direction", groups.get("middle", ())
    rows = {r["layer"]: r for r in records(gap)}
    final = rows[max(rows)]["mean"]
    if not middle or middle[-1] + 1 not in rows or not final > 0:
        return Verdict(hypothesis, "undecided", "no middle group, or no gap in the end to share", "component")
    before, after = rows[middle[0]], rows[middle[-1] + 1]
    # the two intervals' ends combined: wider than the difference's own interval, so the rule errs towards undecided
    share = Condition(
        "share of the final gap written in the middle", (after["mean"] - before["mean"]) / final,
        (after["low"] - before["high"]) / final, (after["high"] - before["low"]) / final, "at least", HALF,
    )  # fmt: skip
    return verdict(hypothesis, "component", [share])


def late_response(noised: pd.DataFrame) -> Verdict:
    """Late MLPs at the last position are needed, late attention no longer is."""
    where = {"group": "late", "position": "last"}
    return verdict(
        "late layers turn it into a response", "groups",
        [
            pick(noised, "late MLPs at last", "at least", HALF, kind="mlp_out", **where),
            pick(noised, "late attention at last", "below", HALF, kind="attn_out", **where),
        ],
        "there is no group called late",
    )  # fmt: skip


def no_single_block(noised: pd.DataFrame) -> Verdict:
    """No attention or MLP output, at any one layer and position, recovers half under noising."""
    worst = largest(noised, "mean")
    name = f"largest single block, {Site(worst['kind'], worst['layer']).label} at {worst['pos']},"
    return verdict(
        "no single block carries it", "blocks",
        [Condition(name, worst["mean"], worst["low"], worst["high"], "below", HALF)],
    )  # fmt: skip


def direct_heads(noised: pd.DataFrame, denoised: pd.DataFrame) -> Verdict:
    """The direct heads are needed and enough, and more so than any random set of as many heads."""
    hypothesis, rows = "a few direct heads carry it", [r for r in records(noised) if r["set"] == "direct"]
    if not rows:
        return Verdict(hypothesis, "undecided", "no head scores as direct at this threshold", "head-sets")
    null = float(rows[0]["null_max"])
    conditions = [
        pick(noised, "direct heads noised", "at least", HALF, set="direct"),
        pick(denoised, "direct heads denoised", "at least", HALF, set="direct"),
        pick(noised, "direct heads noised, against the largest random set,", "at least", null, set="direct")
        if not math.isnan(null)
        else None,
    ]
    return verdict(hypothesis, "head-sets", conditions, "too few other heads for a random set of this size")


def diagonal_antagonism(denoised: pd.DataFrame) -> Verdict:
    """Denoising diagonal heads together with the direct ones recovers less than half of what direct heads alone do."""
    hypothesis = "diagonal heads work against direct heads"
    means = {r["set"]: float(r["mean"]) for r in records(denoised)}
    if "direct + diagonal" not in means or not means.get("direct", 0.0) > 0:
        return Verdict(hypothesis, "undecided", "needs heads of both classes", "head-sets")
    bound = HALF * means["direct"]
    together = pick(denoised, "direct and diagonal heads denoised", "below", bound, set="direct + diagonal")
    return verdict(hypothesis, "head-sets", [together])
