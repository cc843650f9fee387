"""Who makes up for a component that is lost? Its noising, taken apart exactly; told within the chapter `repair`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

from circuits.case.condition import Rows, minus
from circuits.case.wording import told
from circuits.cases.gemma_refusal.rules import repair as rules
from circuits.cases.gemma_refusal.setting import Missing, Setting
from circuits.frames import cells, records
from circuits.measure.attention import classify_heads
from circuits.measure.blocks import BlockPatching
from circuits.measure.heads import HeadPatching
from circuits.measure.repair_identity import RepairIdentity, decompose_repair
from circuits.measure.repair_identity.result import SUMS
from circuits.report import Section, Verdict
from circuits.sites import Site, parse

_TITLE: Final = "Self-repair as an identity: who makes up for a lost component?"
COMPARABLE: Final = 0.1
"""Of a size, the share from which a direct effect is worth dividing by: smaller ones give ratios of next to nothing."""
_TERMS: Final = 6
"""Later components listed one by one."""
_NAMES: Final = {
    "direct": "direct",
    "final_norm": "final norm",
    "later": "all later components",
    "total": "total change",
}
_OWN: Final = {"own post-norm": "own post-norm", "nonlinear": "nonlinear part of the metric"}
_COLUMNS: Final = (
    "component", "term", "mean", "low", "high", "ratio", "ratio_low", "ratio_high", "null_low", "null_median", "null_high",
    "null_n",
)  # fmt: skip


def estimate(mean: float, low: float, high: float) -> str:
    """`0.43 [0.31, 0.55]`; without limits where there are none."""
    return minus(f"{mean:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(low) else f"{mean:.2f} (no interval)")


def measure(s: Setting, heads: HeadPatching, blocks: BlockPatching) -> Mapping[str, RepairIdentity] | Missing:
    """The head, the block and the direct head with the largest noising effects taken apart, by which of these they are."""
    if s.model.shape.n_layers < 2:
        return Missing("the model has one block, and nothing stands after it")

    def apart() -> dict[str, RepairIdentity]:
        classes = classify_heads(s.model, s.tokens, threshold=s.threshold).to_summary()
        sites = _sites(heads, blocks, list(classes.loc[classes["klass"] == "direct", "label"]))
        return {
            why: decompose_repair(s.model, s.tokens, s.metric, site, ablation="patch", seed=s.seed)
            for why, site in sites.items()
        }

    return s.attempt("repair-identity", apart, lambda found: ", ".join(part.component for part in found.values()))


def _sites(heads: HeadPatching, blocks: BlockPatching, direct: Sequence[str]) -> dict[str, Site]:
    """The head, the block and the direct head that noising at the last position moves the metric most by.

    Of all blocks but the last, after which hardly anything stands; a direct head only where it is another one.
    """
    before = heads.value.shape[1] - 1
    single, block = heads.to_frame(), blocks.to_frame()
    block = block[(block["layer"] < before) & (block["pos"] == -1)]
    single = single[single["layer"] < before]
    block = block.assign(
        label=[Site(kind, int(layer)).label for kind, layer in zip(block["kind"], block["layer"], strict=True)]
    )
    found = {"head": _top(single), "block": _top(block)}
    of_direct = single[single["label"].isin(list(direct))]
    other = _top(of_direct) if len(of_direct) else found["head"]
    return found if other == found["head"] else found | {"direct head": other}


def _top(frame: pd.DataFrame) -> Site:
    """The site whose mean fraction is largest, its sign aside."""
    named, values, _ = cells(frame, ["label"], "fraction")
    return parse(str(named["label"].iloc[int(np.abs(np.nanmean(values, axis=0)).argmax())]))


def tell(found: Mapping[str, RepairIdentity] | Missing) -> tuple[Section, Verdict]:
    """The change of the metric by term, for each component, and whether later ones repair the loss of the head."""
    if isinstance(found, Missing):
        return found.section("repair-identity", _TITLE), rules.unmeasured("repair-identity", found.reason)
    summaries = {why: _compared(part) for why, part in found.items()}
    moved = "; ".join(_moved(found[why].component, table) for why, table in summaries.items())
    section = Section(
        "repair-identity", _TITLE,
        f"Noised at the last position of the clean prompts, in units of the metric: {moved}.",
        {f"repair-identity-{why.replace(' ', '-')}": part.figure() for why, part in found.items()},
        "Each bar is what one term changes in the metric, and all of them add up to the whole change: what the component "
        "wrote itself (direct), what the other scale of the final norm does to all that is there, and what each later "
        "component writes otherwise than before. Whiskers: 95 % intervals. Ratio: over the direct effect, its sign turned; "
        "1 makes up for all of it, below 0 it adds to the loss.",
        "Of repair by later components: a ratio that is negative, or within the range of other components' ratios.",
        "", _table(list(summaries.values())), _notes(found),
    )  # fmt: skip
    head = found["head"]
    later = next(r for r in records(summaries["head"]) if r["kind"] == "sum" and r["term"] == "later")
    return section, rules.later_repairs(Rows.of(head, head.sums_frame()), later, head.component)


def _compared(part: RepairIdentity) -> pd.DataFrame:
    """The summary, with ratios only where the direct effect is worth dividing by: the component's own, and its null's.

    A component that acts through later ones has next to no direct effect, and what these do is no repair of it.
    """
    table, direct, others = part.to_summary(), part.direct.double().mean().abs(), part.null_direct.double().mean(1)
    sizes = [float(getattr(part, name).double().mean().abs()) for name in SUMS]
    if direct < COMPARABLE * max(sizes):
        table[["ratio", "ratio_low", "ratio_high"]] = math.nan
    kept = others.abs() >= COMPARABLE * direct
    for name in SUMS:
        ratios = (getattr(part, f"null_{name}").double().mean(1)[kept] / -others[kept]).numpy()
        low, median, high = np.quantile(ratios, (0, 0.5, 1)) if len(ratios) else (math.nan,) * 3
        where = (table["kind"] == "sum") & (table["term"] == name)
        table.loc[where, ["null_low", "null_median", "null_high", "null_n"]] = [low, median, high, len(ratios)]
    return table


def _notes(found: Mapping[str, RepairIdentity]) -> list[str]:
    chosen = ", ".join(f"{part.component} (largest effect of a {why})" for why, part in found.items())
    worst = max(float(part.residual.abs().max()) for part in found.values())
    share = max(float(part.residual.abs().max() / part.total.abs().mean()) for part in found.values())
    apart = (
        f"Taken apart: {chosen}, each replaced by what it is on the corrupt prompt. Zeroed or set to its mean, a component can "
        "give another picture. The last block is left out: hardly anything stands after it."
    )
    exact = (
        f"The terms add up to the measured change: the largest residual of any pair is {worst:.0e} units of the metric, "
        f"{share:.0e} of the mean change."
    )
    null = (
        "The ratio divides means, not pair by pair, and is undefined where the mean direct effect may be zero, or is less than "
        f"{COMPARABLE:g} of the largest term: such a component acts through later ones. Its null: the same patch of up to 10 "
        "other components of the kind (heads: of the same layer; blocks: of other layers), of those (`null_n`) whose direct "
        f"effect is at least {COMPARABLE:g} of this one's."
    )
    return [apart, exact, null]


def _moved(component: str, table: pd.DataFrame) -> str:
    """What noising one component does to the metric, through which terms, and whether later ones make up for it."""
    rows = {r["term"] if r["kind"] == "sum" else r["kind"]: r for r in records(table)}
    said = {name: told(r) for name, r in rows.items()}
    own = "".join(f", {said[kind]} through the {name}" for kind, name in _OWN.items() if kind in said)
    ratio, low, high = (rows["later"][name] for name in ("ratio", "ratio_low", "ratio_high"))
    does = "make up for" if low > 0 else "add to" if high < 0 else "do not clearly make up for or add to"
    so = f"which {does} the direct effect (ratio {estimate(ratio, low, high)})"
    if not math.isfinite(ratio):
        so = "of which there is no ratio, because the direct effect is next to nothing"
    return minus(
        f"{component} moves it by {said['total']}: {said['direct']} directly, {said['final_norm']} through the final norm's "
        f"scale{own}, and {said['later']} through later components, {so}"
    )


def _table(summaries: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The sums of every component first, then the largest later terms of each."""
    sums: list[pd.DataFrame] = []
    terms: list[pd.DataFrame] = []
    for table in summaries:
        of_sum, own = table[table["kind"] == "sum"], table[table["kind"].isin(list(_OWN))]
        sums += [of_sum.assign(term=of_sum["term"].map(_NAMES)), own.assign(term=own["kind"].map(_OWN))]
        later = table[table["kind"].isin(["head", "mlp", "post-norm"])]
        by_size = later["mean"].abs().sort_values(ascending=False, kind="stable").index
        terms.append(later.loc[by_size[:_TERMS]])
    every = [part for part in (*sums, *terms) if len(part)]
    return pd.concat(every, ignore_index=True)[list(_COLUMNS)]
