"""A sweep of doses, told: what the best dose did, beside no edit and random edits, and what was said under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.case.wording import number, percent
from circuits.frames import records
from circuits.measure.steering import Steering
from circuits.measure.steering.result import BASELINE
from circuits.report import Completion, Section


def steering(
    found: Steering, anchor: str, title: str, published: str = "", *, values: Sequence[str] = ("metric", "refused"),
    claim: str = "", notes: Sequence[str] = (),
) -> Section:  # fmt: skip
    """One figure per value; the claim says what no edit and the extremes of the sweep give."""
    table = found.to_summary()
    base, *doses = records(table)
    low, *_, high = sorted(doses, key=lambda row: row["metric"]) if len(doses) > 1 else doses * 2
    gaps = int(table["missing"].sum())
    return Section(
        anchor, title,
        claim or f"Without an edit the metric is {number(base['metric'])} and {rate(base)} refuse; it is lowest under "
        f"{low['dose']} ({number(low['metric'])}, {rate(low)} refuse) and highest under {high['dose']} "
        f"({number(high['metric'])}, {rate(high)} refuse).",
        {f"{anchor}-{value.replace('.', '-')}": found.figure(value) for value in values},
        "Means over prompts with 95 % intervals; refusals are told by phrases in greedy completions.",
        "Random directions, or the opposite sign, that do the same.", published, table,
        (
            *notes, *([f"{gaps} judgements are missing, see the column `missing`."] if gaps else []),
            *([f"Judging: {found.cost}."] if found.cost else []), found.provenance.certificate,
        ),
    )  # fmt: skip


def rate(row: Mapping[str, Any]) -> str:
    """The refusal rate of a row of the summary: `79 % [76, 82]`."""
    return percent(row["refused"], row["refused_low"], row["refused_high"])


def completions(found: Steering, doses: Sequence[str], *, prompts: int = 6, kind: str = "") -> list[Completion]:
    """What was said without an edit and under some doses, for the first prompts."""
    frame = found.to_frame()
    shown = frame[frame["dose"].isin([BASELINE, *doses]) & (frame["pair"] < prompts)]
    return [
        Completion(r["prompt"], kind or r["label"], r["dose"], r["completion"], bool(r["refused"])) for r in records(shown)
    ]
