"""What do the direct heads do: the hypotheses about what is said, what they write, and other prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from circuits.case.condition import HALF, Condition, Rows, Side, condition, minus, verdict
from circuits.frames import cells
from circuits.report import Verdict
from circuits.stats import mean_interval, rate
from circuits.stats.paired import paired_change

SAID: Final = "patching the direct heads changes what is said"
ALONE: Final = "the direct heads alone make it refuse"
WRITES: Final = "direct heads write the direction"
ELSEWHERE: Final = "the direct heads matter on other prompts too"
HYPOTHESES: Final = {"spoken": (SAID, ALONE), "head-writes": (WRITES,), "ov": (), "transfer": (ELSEWHERE,)}
"""Section id -> the hypotheses that rest on it. What heads read is left open by the write-up: it has none."""
_TOO_FEW: Final = "too few other heads for a random set of this size"


def unmeasured(section: str, reason: str) -> list[Verdict]:
    """A number that does not exist decides nothing."""
    return [Verdict(name, "undecided", f"not measured: {reason}", section) for name in HYPOTHESES[section]]


def noised_says(noised: Rows) -> Verdict:
    """Noising the direct heads takes refusals below half; no random set of as many heads does."""
    return _said(noised, SAID, "clean prompts refused", "noised", before="at least", after="below")


def denoised_says(denoised: Rows) -> Verdict:
    """Denoising the direct heads brings refusals to half at least, where none are; no random set of as many heads does."""
    return _said(denoised, ALONE, "corrupt prompts refused", "denoised", before="below", after="at least")


def _said(rows: Rows, hypothesis: str, refused: str, how: str, *, before: Side, after: Side) -> Verdict:
    """Rates cross one half under the direct heads' patch, and not under that of the random set that moves them furthest."""
    references = [
        _rate(rows, refused, before, cell="baseline"),
        _rate(rows, "their counterparts", after, cell="source"),
    ]
    if not all(c.holds for c in references):
        apart = "; ".join(c.text for c in references)
        return Verdict(hypothesis, "undecided", f"clean and corrupt prompts are not told apart: {apart}", "spoken")
    drawn = rows.frame[rows.frame["null_of"] == "direct"].groupby("cell", sort=False)["refused"].mean()
    furthest = None if not len(drawn) else drawn.idxmin() if after == "below" else drawn.idxmax()
    against = None if furthest is None else _rate(
        rows, f"with the random set of {len(drawn)} that changes most", before, cell=furthest
    )  # fmt: skip
    patched = _rate(rows, f"{refused} with direct heads {how}", after, cell="direct")
    return verdict(hypothesis, "spoken", [patched, against], _TOO_FEW)


def _rate(rows: Rows, name: str, side: Side, **where: Any) -> Condition:
    """A refusal rate against one half, with Wilson's interval (a bootstrap has no width where all prompts agree)."""
    refused, clusters = rows.per_pair("refused", **where)
    found = rate(refused, clusters)
    again = condition(refused, name, side, HALF, clusters=clusters).share
    return Condition(name, found.estimate, found.low, found.high, side, HALF, again)


def writes_direction(writes: Rows, random_high: Mapping[str, float]) -> Verdict:
    """Direct heads write more along the direction than all others do, by more than along random directions; and so with
    every head's write at one length, so that heads which merely write a lot gain nothing.

    `random_high` is, per measure, the upper end of the middle 95 % of the same difference along random directions.
    """  # noqa: D205  the rule is one sentence
    names = {"value": "direct heads write more than others by", "matched": "with all writes at one length by"}
    conditions: list[Condition | None] = []
    for measure, name in names.items():
        found, clusters = beyond_others(writes, measure)
        there = len(found) and np.isfinite(random_high[measure])
        conditions.append(
            condition(found, name, "at least", random_high[measure], clusters=clusters) if there else None
        )
    found = verdict(WRITES, "head-writes", conditions, "no head with a defined write is left to compare with")
    return replace(found, rule=f"{found.rule}: the upper end of 95 % of random directions" if found.rule else "")


def beyond_others(writes: Rows, measure: str) -> tuple[npt.NDArray[np.float64], list[int] | None]:
    """Mean over the chosen heads less the mean over all others, per pair; heads undefined in some pair are left out.

    Empty where that leaves no chosen head, or no other.
    """
    named, values, pairs = cells(writes.frame, ["chosen", "label"], measure)
    defined = np.isfinite(values).all(axis=0)
    chosen, values = named["chosen"].to_numpy(bool)[defined], values[:, defined]
    if not chosen.any() or chosen.all():
        return np.empty(0), None
    clusters = None if writes.clusters is None else [writes.clusters[int(p)] for p in pairs]
    return values[:, chosen].mean(1) - values[:, ~chosen].mean(1), clusters


def matters_elsewhere(prompts: Rows) -> Verdict:
    """On diverse harmful prompts the direct heads, set to their mean over harmless ones, move the metric and the refusals
    by at least half of the gap between the two kinds, and by more than any random set of as many heads does.

    `prompts` has a row per prompt (`pair`) and cell: origin, label, cell, null_of, metric, refused.
    """  # noqa: D205  the rule is one sentence
    frame = prompts.frame[prompts.frame["origin"] == "diverse"]
    here, there = (Rows(frame[frame["label"] == label]) for label in ("harmful", "harmless"))
    references = [
        _rate(here, "diverse harmful prompts refused", "at least", cell="baseline"),
        _rate(there, "harmless ones", "below", cell="baseline"),
    ]
    baseline = [rows.per_pair("metric", cell="baseline") for rows in (here, there)]
    of = [mean_interval(values, clusters) for values, clusters in baseline]
    if not (all(c.holds for c in references) and of[0].low > of[1].high):
        apart = minus(f"{'; '.join(c.text for c in references)}; metric {of[0]} and {of[1]}")
        return Verdict(ELSEWHERE, "undecided", f"the two kinds of prompts are not told apart: {apart}", "transfer")
    gaps = {"metric": of[1].estimate - of[0].estimate, "refused": references[1].mean - references[0].mean}
    conditions: list[Condition | None] = []
    drawn = here.frame[here.frame["null_of"] == "direct"]
    for value, name in (("metric", "share of the gap that the metric moves"), ("refused", "that refusals move")):
        (before, clusters), (after, _) = (here.per_pair(value, cell=cell) for cell in ("baseline", "direct"))
        random = (drawn.groupby("cell")[value].mean() - before.mean()) / gaps[value]
        bound = max(HALF, float(random.max())) if len(random) else HALF
        found = condition((after - before) / gaps[value], name, "at least", bound, clusters=clusters)
        if value == "refused":  # where every prompt changed alike, a bootstrap would have no width
            change = paired_change(before, after, clusters)
            low, high = sorted((change.low / gaps[value], change.high / gaps[value]))
            found = replace(found, low=low, high=high)
        conditions.append(found)
    missing = [] if len(drawn) else [None]
    return verdict(ELSEWHERE, "transfer", [*conditions, *missing], _TOO_FEW)
