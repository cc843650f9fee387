"""A sweep of doses, told: what the best dose did, beside no edit and random edits, and what was said under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from circuits.case.condition import HALF, Condition, Side, condition
from circuits.case.wording import number, percent
from circuits.frames import records
from circuits.measure.steering import Steering
from circuits.measure.steering.result import BASELINE
from circuits.report import Completion, Section
from circuits.stats import rate as rate_of

COHERENCE: Final = "perplexity.coherence"
NONSENSE: Final = (
    "Phrases see no nonsense: a completion that repeats one word holds none of them and counts as not refusing."
)

ALPHA: Final = (
    "α is taken off each write to the residual stream, once: the stream keeps 1 − α of the direction. Taken off the stream "
    "again at every layer, as hooks on it do, it is the same at α = 1 and another edit at any other."
)


def steering(
    found: Steering, anchor: str, title: str, published: str = "", *, values: Sequence[str] = ("metric", "refused"),
    claim: str = "", notes: Sequence[str] = (), said: str = "refuse",
) -> Section:  # fmt: skip
    """One figure per value; the claim says what no edit and the extremes of the sweep give.

    `said` is what the phrases stand for on these prompts: “refuse”, or “say no” where they ask for what nobody forbids.
    """
    table = found.to_summary()
    base, *doses = records(table)
    low, *_, high = sorted(doses, key=lambda row: row["metric"]) if len(doses) > 1 else doses * 2
    gaps = int(table["missing"].sum())
    return Section(
        anchor, title,
        claim or f"Without an edit the metric is {number(base['metric'])} and {rate(base)} {said}; it is lowest under "
        f"{low['dose']} ({number(low['metric'])}, {rate(low)} {said}{coherence(low)}) and highest under {high['dose']} "
        f"({number(high['metric'])}, {rate(high)} {said}{coherence(high)}).",
        {f"{anchor}-{value.replace('.', '-')}": found.figure(value) for value in values},
        f"Means over prompts with 95 % intervals; that completions {said} is told by phrases in greedy text. {NONSENSE}",
        "Random directions, or the opposite sign, that do the same.", published, table,
        (
            *notes, *([f"{gaps} judgements are missing, see the column `missing`."] if gaps else []),
            *([f"Judging: {found.cost}."] if found.cost else []), found.provenance.certificate,
        ),
    )  # fmt: skip


def rate(row: Mapping[str, Any]) -> str:
    """The refusal rate of a row of the summary: `79 % [76, 82]`."""
    return percent(row["refused"], row["refused_low"], row["refused_high"])


def coherence(row: Mapping[str, Any]) -> str:
    """`, coherence 0.58` where it was judged."""
    return f", coherence {number(row[COHERENCE])}" if COHERENCE in row else ""


def refusing(
    found: Steering, dose: str, name: str, side: Side, *, bound: float = HALF, answered: bool = False
) -> Condition:
    """The share of prompts refused (or `answered`) under a dose, against a bound.

    Wilson's interval, over templates where prompts share them: a bootstrap has no width where all prompts agree.
    """
    refused = found.refused[(BASELINE, *found.doses).index(dose)].numpy()
    values = (~refused if answered else refused).astype(np.float64)
    limits = rate_of(values, found.clusters)
    again = condition(values, name, side, bound, clusters=found.clusters).share
    return Condition(name, limits.estimate, limits.low, limits.high, side, bound, again)


def extreme_null(found: Steering, coefficient: float | None, *, refused: bool) -> str | None:
    """Of the random directions of one strength, the one under which most (or, not `refused`, fewest) prompts are refused.

    A claim that holds beside it holds beside all of them. None where there is none.
    """
    doses = zip(found.doses, found.series, found.coefficients, strict=True)
    rates = {
        dose: float(found.refused[place].double().mean())
        for place, (dose, series, c) in enumerate(doses, start=1)
        if series.startswith("random") and c == coefficient
    }
    if not rates:
        return None
    return (max if refused else min)(rates, key=lambda dose: rates[dose])


def completions(
    found: Steering, doses: Sequence[str], *, prompts: int = 6, kind: str = "", mark: str = "refused"
) -> list[Completion]:
    """What was said without an edit and under some doses, for the first prompts; `mark` is what the phrases mean there."""
    frame = found.to_frame()
    shown = frame[frame["dose"].isin([BASELINE, *doses]) & (frame["pair"] < prompts)]
    return [
        Completion(r["prompt"], kind or r["label"], r["dose"], r["completion"], bool(r["refused"]), mark)
        for r in records(shown)
    ]
