"""Along the direction: what the direct heads write, and what they read at the subject to write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from circuits.case.condition import Rows, minus
from circuits.case.wording import number, percent
from circuits.cases.gemma_refusal.chapters.elsewhere import plural, spread
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.cases.gemma_refusal.setting import Chapter
from circuits.frames import cells, records, summary
from circuits.measure.head_writes import MEASURES, HeadWrites
from circuits.measure.ov import BIASES, OvCircuits
from circuits.report import Section
from circuits.sites import parse
from circuits.stats import mean_interval
from circuits.stats.cluster import cluster_sums
from circuits.stats.interval import effective, resampling, widened

Array = npt.NDArray[np.float64]

TOGETHER: Final = "together"
"""In the column of heads: all of them."""
NAMED: Final = 3
"""How many components, heads and tokens a sentence names."""
_DRAWS: Final = 10_000


def of_all(table: pd.DataFrame, measure: str) -> dict[str, Any]:
    """The row of a summary of writes that compares direct heads with all others, by what they write or at one length."""
    return records(table[(table["measure"] == measure) & (table["against"] == "all heads")])[0]


def tell_writes(writes: HeadWrites, title: str) -> Chapter:
    """The section and the verdict on what direct heads write, against all other heads and random directions."""
    table = writes.to_summary()
    value, matched = (of_all(table, measure) for measure in MEASURES)
    heads, others = plural(len(writes.chosen), "direct head"), plural(value["others"], "other")
    lengths = "undefined, because no write of either differs" if np.isnan(matched["effect"]) else (
        f"{spread(matched['effect'], matched['low'], matched['high'])}, {_beyond(matched)}"
    )  # fmt: skip
    claim = (
        f"A direct head writes {spread(value['effect'], value['low'], value['high'])} more along the direction than another "
        f"head does (mean of {heads} less that of {others}; clean − corrupt, residual units), {_beyond(value)}; with every "
        f"head's write at one length the difference is {lengths}."
    )
    top = sorted(records(writes.heads_frame()), key=lambda r: -abs(r["value"]))[:3]
    named = ", ".join(
        f"{r['label']}{'' if r['chosen'] else ' (not direct)'} {spread(r['value'], r['low'], r['high'])}" for r in top
    )
    lost = matched["undefined"]
    undefined = [f"{plural(lost, 'head')} without a difference in some pair: no length to compare at."] if lost else []
    section = Section(
        "head-writes", title, minus(claim),
        {"head-writes": writes.figure(), "head-writes-matched": writes.matched_figure()},
        "Each dot is a head: what it adds along the direction at the last position, clean − corrupt, averaged over pairs; "
        "below, the same over the length of all it adds (a cosine). chosen: the direct heads.",
        "A difference within random_low to random_high, the middle 95 % of the same difference along random directions.",
        PUBLISHED["head-writes"], _writes_table(table),
        (
            minus(f"Heads that write most: {named}."),
            (
                f"Shuffling which heads are direct gives p = {value['p_holm']:.2g} (Holm), but p < 0.05 along "
                f"{100 * value['rejected']:.0f} % of random directions too, because heads that move the same thing write "
                "alike: the verdict asks whether the difference is beyond random directions."
            ),
            (
                "Random directions are a weak control: what clean and corrupt prompts differ in fills few of all dimensions, "
                "and the direction is one of these. Each pair's direction is estimated without it."
            ),
            "Writing is not acting: a later layer need not read it.", *undefined,
        ),
    )  # fmt: skip
    tops = {"value": value["random_high"], "matched": matched["random_high"]}
    return Chapter([section], [rules.writes_direction(Rows.of(writes), tops)])


def _beyond(row: Mapping[str, Any]) -> str:
    """Where the interval lies to the range of random directions."""
    low, high = row["random_low"], row["random_high"]
    if row["low"] > high or row["high"] < low:
        where = "above" if row["low"] > high else "below"
    else:
        where = "within" if low <= row["low"] and row["high"] <= high else "not surely outside"
    return f"{where} the range of random directions ({number(low)} to {number(high)})"


def _writes_table(table: pd.DataFrame) -> pd.DataFrame:
    names = {"value": "written", "matched": "written, at one length"}
    table = table.assign(compared=table["measure"].map(names), p=table["p_holm"], random_rejected=table["rejected"])
    return table[[
        "compared", "against", "effect", "low", "high", "random_low", "random_high", "auroc", "auroc_low", "auroc_high",
        "p", "random_rejected",
    ]]  # fmt: skip


def tell_reads(reads: OvCircuits, title: str, direct: Sequence[str]) -> Chapter:
    """The section on what is read, a question without a hypothesis. `direct`: all direct heads, asked or not."""
    table, heads, rest = _reads_table(reads, direct), reads.heads_frame(), len(direct) - len(reads.chosen)
    asked = heads[heads["chosen"]].sort_values("write", key=lambda w: -w.abs())
    section = Section(
        "ov", title, minus(_claim(reads, table, rest)),
        {"ov": reads.figure()},
        "What each head moves from the subject to the last position along the direction, shared out among what makes up the "
        "residual at the subject; a row's cells sum to the head's whole write from there. Dashes: not upstream of the head.",
        "Terms within null_low to null_high: heads of the same layer that are not direct then read as much.",
        PUBLISHED["ov"], table,
        (
            _from_subject(reads),
            *(_tokens(reads, row) for row in records(asked.head(NAMED))),
            "Null: the heads of the same layer that are not direct; with so few, p_null is never below 1/(1 + null_n).",
            (
                "This is a linear reading of one run, nothing is patched: clean − corrupt holds changes of attention and of "
                "the norms' scales too, and a component that acts by moving attention alone shows nothing."
            ),
            reads.provenance.certificate,
        ),
    )  # fmt: skip
    return Chapter([section])


def _claim(reads: OvCircuits, table: pd.DataFrame, rest: int) -> str:
    heads = plural(len(reads.chosen), "direct head")
    heads = f"the {heads} that write{'s' * (len(reads.chosen) == 1)} most" if rest > 0 else heads
    whole = mean_interval(_moved(reads)[0], reads.clusters)
    single = records(table[table["head"] != TOGETHER].head(1))[0]
    null = "" if np.isnan(single["null_low"]) else (
        f", where heads of that layer that are not direct lie between {number(single['null_low'])} and "
        f"{number(single['null_high'])}"
    )  # fmt: skip
    largest = f"{_named(single['component'])} read by {single['head']}, {_of(single, 'value', 'low', 'high')}{null}"
    first = (
        f"Along the direction, what {heads} move{'s' * (heads.startswith('1 '))} from the subject to the last position is "
        f"{spread(whole.estimate, whole.low, whole.high)} (clean − corrupt, residual units)"
    )
    shares = [r for r in records(table[table["head"] == TOGETHER].head(NAMED)) if np.isfinite(r["share"])]
    if not shares:
        return f"{first}, not surely other than zero, so that it has no shares; the largest term is {largest}."
    parts = [f"{percent(r['share'], r['share_low'], r['share_high'])} from {_named(r['component'])}" for r in shares]
    return f"{first}, of which they read {', '.join(parts)}; the largest term is {largest}."


def _of(row: Mapping[str, Any], mean: str, low: str, high: str) -> str:
    return spread(row[mean], row[low], row[high])


def _named(component: str) -> str:
    return "the token embedding" if component == "embed" else component


def _from_subject(reads: OvCircuits) -> str:
    """How much of what the heads write from all positions comes from the subject."""
    write, total = _moved(reads)
    of = mean_interval(total, reads.clusters)
    said = f"From all positions these heads write {spread(of.estimate, of.low, of.high)} along the direction"
    if not of.excludes():
        return minus(f"{said}.")
    share, low, high = (float(x[0]) for x in ratios(write[:, None], total, reads.clusters))
    return minus(f"{said}; what comes from the subject is {percent(share, low, high)} of it.")


def _moved(reads: OvCircuits) -> tuple[Array, Array]:
    """What the asked heads together write along the direction per pair, clean − corrupt: from the subject, and from all."""
    asked = [parse(label) for label in reads.chosen]
    layer, number_of = [reads.layers.index(h.layer) for h in asked], [h.index or 0 for h in asked]
    of = [(t[0] - t[1]).double().numpy()[:, layer, number_of].sum(1) for t in (reads.write, reads.total)]
    return of[0], of[1]


def _tokens(reads: OvCircuits, row: Mapping[str, Any]) -> str:
    """The tokens a head's reading is closest to, and how well it tells the pairs' subjects apart."""
    frame = reads.tokens_frame()
    mine = {r["rank"]: r["token"] for r in records(frame[frame["label"] == row["label"]])}
    most, least = (
        ", ".join(mine[rank] for rank in ranks if rank in mine)
        for ranks in (range(1, NAMED + 1), range(-1, -NAMED - 1, -1))
    )
    apart = "" if np.isnan(row["auroc"]) else (
        "; along it the embeddings of clean subjects lie above those of corrupt ones with AUROC "
        f"{_of(row, 'auroc', 'auroc_low', 'auroc_high')}"
    )  # fmt: skip
    return f"Token embeddings that point most along what {row['label']} reads: {most}; most against it: {least}{apart}."


def _reads_table(reads: OvCircuits, direct: Sequence[str]) -> pd.DataFrame:
    """One row per component for all asked heads together, then one per head and component; the largest first.

    Biases that a model does not have are left out.
    """
    frame, clusters = reads.to_frame(), reads.clusters
    every = frame[frame["chosen"]].groupby(["pair", "component"])[["value"]].sum().reset_index()
    blocks = {TOGETHER: (summary(every, ["component"], "value", clusters=clusters), reads.chosen)}
    # direct heads that were not asked are no null either
    every_head = replace(reads, chosen=tuple(direct)).to_summary()
    single = every_head[every_head["label"].isin(reads.chosen)].drop(columns=["layer", "share"])
    for label, rows in single.groupby("label", sort=False):
        blocks[str(label)] = rows, (str(label),)
    parts: list[pd.DataFrame] = []
    for name, (rows, labels) in blocks.items():
        components, values, whole = _split(frame, labels)
        known = mean_interval(whole, clusters).excludes()  # a share of what may be zero is none
        of = ratios(values, whole, clusters) if known else np.full((3, values.shape[1]), np.nan)
        shares = pd.DataFrame(dict(zip(("share", "share_low", "share_high"), of, strict=True)))
        parts.append(rows.merge(shares.assign(component=components), on="component").assign(head=name))
    table = pd.concat(parts, ignore_index=True).rename(columns={"mean": "value"})
    table = table[~(table["component"].isin(BIASES) & (table["value"] == 0))]
    order = table.assign(single=table["head"] != TOGETHER, size=-table["value"].abs())
    return order.sort_values(["single", "size"], kind="stable", ignore_index=True)[[
        "head", "component", "value", "low", "high", "share", "share_low", "share_high", "null_low", "null_high", "null_n",
        "p_null",
    ]]  # fmt: skip


def _split(frame: pd.DataFrame, labels: Sequence[str]) -> tuple[list[str], Array, Array]:
    """Components, what heads read of each [pair, component] summed over heads, and the whole [pair]."""
    mine = frame[frame["label"].isin(labels)].groupby(["pair", "component"])[["value"]].sum().reset_index()
    named, values, _ = cells(mine, ["component"], "value")
    return [str(name) for name in named["component"]], values, values.sum(1)


def ratios(values: Array, whole: Array, clusters: Sequence[int] | None = None) -> Array:
    """[3, cell]: mean of each column of `values` [pair, cell] over the mean of `whole` [pair], and its 95 % limits.

    Whole pairs (or clusters) are resampled, numerator and denominator together; percentile limits with Hesterberg's
    widened tails (`stats.bootstrap_means`). NaN limits where the pairs say as much as fewer than two independent ones.
    """
    sums, sizes = cluster_sums(np.column_stack([values, whole]), range(len(whole)) if clusters is None else clusters)
    estimate, n = values.mean(0) / whole.mean(), effective(sizes)
    if n < 2:
        return np.stack([estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)])
    drawn = resampling(len(sums), _DRAWS, 0) @ sums
    tail = float(special.ndtr(-widened(n, 0.95)))
    return np.stack([estimate, *np.quantile(drawn[:, :-1] / drawn[:, -1:], [tail, 1 - tail], axis=0)])
