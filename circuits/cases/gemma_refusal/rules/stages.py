"""Does it refuse, what carries it, and where: the hypotheses about behaviour, stages, blocks and sets of heads."""

from __future__ import annotations

import math

import numpy as np

from circuits.case.condition import HALF, Condition, Rows, Side, condition, minus, pick, verdict
from circuits.frames import cells
from circuits.report import Verdict
from circuits.sites import Site
from circuits.stats import AmongLargest, Interval, MeanAbove, survival
from circuits.stats import rate as rate_of

SEPARATES = 0.9
"""AUROC from which a metric is called a classifier of refusal."""


def proxy_holds(rates: Rows, agreement: Interval | None) -> Verdict:
    """The metric is higher on clean prompts, and ranks refused prompts above answered ones nine times in ten."""
    both = [rates.per_pair("metric", setting="baseline", side=side) for side in ("clean", "corrupt")]
    gap = condition(both[0][0] - both[1][0], "metric, clean − corrupt,", "at least", 0.0, clusters=both[0][1])
    area = None if agreement is None else Condition(
        "AUROC of refusals", agreement.estimate, agreement.low, agreement.high, "at least", SEPARATES
    )  # fmt: skip
    found = verdict(
        "the metric stands for refusal", "behaviour", [gap, area], "all or none of the completions refuse: no AUROC"
    )
    if found.verdict != "contradicted":
        return found
    warning = "the proxy fails here: read rates of completions, not fractions of the metric"
    return Verdict(found.hypothesis, found.verdict, f"{found.numbers}; {warning}", found.figure, found.rule)


def direction_removes(rates: Rows) -> Verdict:
    """Ablating the direction takes the refusals of the clean prompts away, a random direction does not."""

    def rate(setting: str, side: Side) -> Condition:
        refused, clusters = rates.per_pair("refused", setting=setting, side="clean")
        of = rate_of(refused, clusters)
        again = condition(refused, "", side, HALF, clusters=clusters).share
        return Condition(f"refusal rate {setting}", of.estimate, of.low, of.high, side, HALF, again)

    hypothesis = "refusal depends on one direction"
    conditions = [rate("baseline", "at least"), rate("intervened", "below"), rate("control", "at least")]
    if conditions[0].holds is not True:  # nothing to remove: the question does not arise
        text = "; ".join(c.text for c in conditions)
        return Verdict(hypothesis, "undecided", f"the clean prompts are not refused: {text}", "behaviour")
    return verdict(hypothesis, "behaviour", conditions)


def early_enrichment(noised: Rows) -> Verdict:
    """Early MLPs are needed at the subject, and early attention moves nothing that is needed yet."""
    return verdict(
        "early layers enrich the subject", "groups",
        [
            pick(noised, "early MLPs at subject", "at least", HALF, group="early", kind="mlp_out", position="subject"),
            pick(noised, "early attention at last", "below", HALF, group="early", kind="attn_out", position="last"),
        ],
        "there is no group called early",
    )  # fmt: skip


def middle_handover(noised: Rows, denoised: Rows, groups: dict[str, tuple[int, ...]]) -> Verdict:
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


def middle_writes(component: Rows, groups: dict[str, tuple[int, ...]]) -> Verdict:
    """At least half of the direction's final gap is written while the middle layers run."""
    hypothesis, middle = "middle layers write the direction", groups.get("middle", ())

    def gap(layer: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        clean, corrupt = (component.per_pair("value", side=side, layer=layer)[0] for side in ("clean", "corrupt"))
        return clean - corrupt

    last = int(component.frame["layer"].max())
    final = gap(last)
    clusters = component.per_pair("value", side="clean", layer=last)[1]
    if not middle or middle[-1] + 1 > last:
        return Verdict(hypothesis, "undecided", "there is no group called middle", "component")
    if not condition(final, "", "at least", 0.0, clusters=clusters).holds:
        return Verdict(hypothesis, "undecided", "no gap in the end that could be shared out", "component")
    # per pair over the mean final gap, which is known to be above zero: the share's mean, without a ratio per pair
    share = (gap(middle[-1] + 1) - gap(middle[0])) / final.mean()
    name = "share of the final gap written in the middle"
    return verdict(hypothesis, "component", [condition(share, name, "at least", HALF, clusters=clusters)])


def late_response(noised: Rows) -> Verdict:
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


def no_single_block(noised: Rows) -> Verdict:
    """No attention or MLP output, at any one layer and position, recovers half under noising."""
    named, values, _ = cells(noised.frame, ["kind", "layer", "pos"], "fraction")
    present = np.isfinite(values)
    means = np.abs(np.nanmean(values, axis=0))
    top = int(means.argmax())
    kind, layer, pos = (named.iloc[top][name] for name in ("kind", "layer", "pos"))
    again = survival(np.where(present, values, 0.0), AmongLargest(1), present=present, clusters=noised.clusters)
    label = f"{Site(kind, int(layer)).label} at {pos}"
    name = f"largest single block, {label} (the largest in {100 * again.share[top]:.0f} % of resamples),"
    found = verdict(
        "no single block carries it", "blocks",
        [pick(noised, minus(name), "below", HALF, kind=kind, layer=layer, pos=pos)],
    )  # fmt: skip
    return Verdict(found.hypothesis, found.verdict, found.numbers, found.figure, "no single block at least 0.5")


def direct_heads(noised: Rows, denoised: Rows, scores: Rows, heads: tuple[str, ...], threshold: float) -> Verdict:
    """The direct heads are needed and enough, and more so than any random set of as many heads."""
    hypothesis = "a few direct heads carry it"
    if not heads:
        return Verdict(hypothesis, "undecided", "no head scores as direct at this threshold", "head-sets")
    drawn = noised.frame[noised.frame["null_of"] == "direct"]
    null = float(drawn.groupby("set")["fraction"].mean().max()) if len(drawn) else math.nan
    conditions = [
        pick(noised, f"{len(heads)} direct heads noised", "at least", HALF, set="direct"),
        pick(denoised, "denoised", "at least", HALF, set="direct"),
        None if math.isnan(null) else _beyond(noised, null),
    ]  # fmt: skip
    found = verdict(hypothesis, "head-sets", conditions, "too few other heads for a random set of this size")
    least = min(_stays(scores, label, threshold) for label in heads)
    kept = f"each of them direct in at least {math.floor(100 * least)} % of resamples"
    return Verdict(hypothesis, found.verdict, f"{found.numbers}; {kept}", found.figure, found.rule)


def _beyond(noised: Rows, null: float) -> Condition:
    values, clusters = noised.per_pair("fraction", set="direct")
    return condition(values - null, "more than the largest random set by", "at least", 0.0, clusters=clusters)


def _stays(scores: Rows, label: str, threshold: float) -> float:
    """In what share of resamples a head's mean direct score keeps the threshold."""
    values, clusters = scores.per_pair("direct", label=label)
    return float(survival(values[:, None], MeanAbove(threshold), clusters=clusters).share[0])


def diagonal_antagonism(denoised: Rows) -> Verdict:
    """Denoising diagonal heads together with the direct ones recovers less than half of what direct heads alone do."""
    hypothesis = "diagonal heads work against direct heads"
    alone, clusters = denoised.per_pair("fraction", set="direct")
    both, _ = denoised.per_pair("fraction", set="direct + diagonal")
    if not len(alone) or not len(both):
        return Verdict(hypothesis, "undecided", "needs heads of both classes", "head-sets")
    if not condition(alone, "", "at least", 0.0, clusters=clusters).holds:
        return Verdict(hypothesis, "undecided", "direct heads alone recover nothing", "head-sets")
    share = both / alone.mean()
    name = "direct and diagonal heads denoised, as a share of direct heads alone,"
    return verdict(hypothesis, "head-sets", [condition(share, name, "below", HALF, clusters=clusters)])
