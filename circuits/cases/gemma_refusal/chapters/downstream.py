"""How is the direction used after it is written? The metric read and shared out; the direction unembedded and clamped.

The sections on the direction itself are told in `downstream_unembedded` and `downstream_clamped`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.case.condition import HALF, Condition, Rows, minus
from circuits.case.wording import percent, told
from circuits.cases.gemma_refusal.chapters.downstream_clamped import clamp_range, clamping
from circuits.cases.gemma_refusal.chapters.downstream_unembedded import Unembedded, null_space, unembedding
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import downstream as rules
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.engine import capture
from circuits.errors import UndefinedError
from circuits.frames import largest, records, summary, sweep_summary
from circuits.interventions import unit
from circuits.measure.attribution import LogitAttribution, attribute_logits
from circuits.measure.clamping import Clamping, clamp_component
from circuits.measure.directions import DirectionChoice
from circuits.measure.lens import READINGS, LogitLens, logit_lens
from circuits.measure.unembedding import UnembeddingOverlap, compare_unembedding
from circuits.report import Section
from circuits.sites import Site, head
from circuits.stats import ALPHA
from circuits.tables import KINDS, SIDES, provenance

STEPS: Final = 4
TITLES: Final = {
    "lens": "When the metric is complete: logit lens",
    "unembedding": "Is the direction unembedded into a token?",
    "null-space": "Does the direction hide in the unembedding's null space?",
    "attribution": "Which blocks and heads write the metric directly",
    "clamping": "Does the metric follow the direction? The component clamped",
}
_WRITERS: Final = dict(zip(KINDS, ("all attention", "all MLPs"), strict=True))
_ELSE: Final = "all else"
_MIDDLE: Final = (0.025, 0.975)
"""Quantiles that hold 95 %."""
_TOTALS: Final = ("metric", *_WRITERS.values(), _ELSE)


@final
@dataclass(frozen=True, eq=False)
class Found:
    """The metric read and shared out, the direction against the unembedding, and clamped."""

    lens: LogitLens | Missing
    shares: LogitAttribution | Missing
    unembedded: Unembedded | Missing
    clamped: Clamping | Missing


def measure(s: Setting, chosen: DirectionChoice | Missing) -> Found:
    """Lens and attribution need a metric linear in the logits; unembedding and clamping need a direction."""
    lens = s.attempt(
        "lens", lambda: logit_lens(s.model, s.tokens, s.metric, seed=s.seed), lambda r: f"{off(r):.0e} off the metric"
    )
    shares = s.attempt(
        "attribution", lambda: attribute_logits(s.model, s.tokens, s.metric, seed=s.seed),
        lambda r: f"adds up within {r.residual.abs().max().item():.0e}",
    )  # fmt: skip
    if isinstance(chosen, Missing):
        return Found(lens, shares, chosen, chosen)
    differences: list[Float[Tensor, "pair d_model"]] = []

    def unembed() -> UnembeddingOverlap:
        clean, corrupt = _residuals(s, chosen.layer, chosen.position)
        differences.append(clean - corrupt)
        return compare_unembedding(s.model, chosen.direction, members=differences[0], seed=s.seed)

    overlap = s.attempt("unembedding", unembed, lambda r: f"largest |cosine| {r.to_summary()['largest'][0]:.2f}")
    if not isinstance(overlap, Missing):
        overlap = Unembedded(overlap, differences[0], provenance(s.model, s.tokens).clusters or None)
    clamped = s.attempt("clamping", lambda: _clamp(s, chosen), lambda r: minus(f"{r.clamps[0]:g} to {r.clamps[-1]:g}"))
    return Found(lens, shares, overlap, clamped)


def tell(s: Setting, found: Found) -> Chapter:
    """Lens, unembedding, null space, attribution, clamping."""
    lens, shares, unembedded, clamped = found.lens, found.shares, found.unembedded, found.clamped
    parts = [_absent("lens", lens) if isinstance(lens, Missing) else _lens(s, lens)]
    if isinstance(unembedded, Missing):
        parts += [_absent("unembedding", unembedded), _absent("null-space", unembedded)]
    else:
        parts.append(unembedding(unembedded, s.model, TITLES["unembedding"]))
        parts.append(null_space(unembedded, TITLES["null-space"]))
    parts.append(_absent("attribution", shares) if isinstance(shares, Missing) else _attribution(shares))
    parts.append(
        _absent("clamping", clamped) if isinstance(clamped, Missing) else clamping(clamped, TITLES["clamping"])
    )
    return Chapter(
        [section for part in parts for section in part.sections],
        [verdict for part in parts for verdict in part.verdicts],
        [completion for part in parts for completion in part.completions],
    )


def _absent(anchor: str, missing: Missing) -> Chapter:
    section = missing.section(anchor, TITLES[anchor], PUBLISHED[anchor])
    return Chapter([section], rules.unmeasured(anchor, missing.reason))


def _clamp(s: Setting, chosen: DirectionChoice) -> Clamping:
    """Clamped at the last position, along each pair's direction estimated without it: its own difference moves no pair."""
    if not chosen.held_out.isfinite().all():
        raise UndefinedError("one pair leaves no other to estimate its direction from; give at least two")
    v = unit(chosen.held_out.float().cpu())
    clamps = clamp_range(torch.stack([(x * v).sum(-1) for x in _residuals(s, chosen.layer, -1)]))
    return clamp_component(
        s.model, s.tokens, s.metric, chosen.held_out, layer=chosen.layer, clamps=clamps, positions="last",
        complete_at=clamps, max_new_tokens=s.max_new_tokens, seed=s.seed,
    )  # fmt: skip


def _residuals(s: Setting, layer: int, position: int) -> list[Float[Tensor, "pair d_model"]]:
    """What enters a layer at a position from the end, in the clean and in the corrupt prompts."""
    runs = (capture(s.model, ids, s.tokens.mask) for ids in (s.tokens.clean, s.tokens.corrupt))
    return [run.resid[layer][:, position].float().cpu() for run in runs]


def off(lens: LogitLens) -> float:
    """How far the readings of the final residual are from the metric, at most."""
    return max((value[..., -1] - lens.metric).abs().max().item() for value in (lens.run_scale, lens.own_scale))


def _lens(s: Setting, lens: LogitLens) -> Chapter:
    late, end = tuple(s.groups.get("late", ())), s.model.shape.n_layers
    gap = _difference(lens.to_frame())
    of = {reading: Rows.of(lens, gap[gap["reading"] == reading]) for reading in READINGS}
    table, tested = _lens_table(lens, of)
    at = {(r["reading"], r["series"], r["layer"]): r for r in records(table)}
    run = [at[READINGS[0], "clean − corrupt", layer] for layer in range(end + 1)]
    corrupt = [at[READINGS[0], "corrupt", layer] for layer in (0, end)]
    added = [rules.share_added(of[reading], late, end, HALF) for reading in READINGS] if late else []
    ends = f"Both readings end at the metric within {off(lens):.0e}." if lens.softcap is None else (
        f"The readings leave out the soft cap at ±{lens.softcap:g}, which changes the metric by up to {off(lens):.2g}."
    )  # fmt: skip
    section = Section(
        "lens", TITLES["lens"], minus(_lens_claim(run, late, added)),
        {"lens": lens.figure(), "lens-absolute": lens.absolute_figure()},
        "The last position's residual entering each layer, and in the end the final one, is read as if it were final: with "
        "the final norm at the scale the run has in the end (a step is then what a layer writes directly), or at the "
        "residual's own. Bands: 95 % intervals over pairs; grey: the middle 95 % of random directions, as long as the "
        "pullback direction.",
        "A difference that is complete before the late layers, or that grows as much along random directions.",
        PUBLISHED["lens"], table,
        (
            minus(
                f"The absolute reading misleads: that of corrupt prompts is {told(corrupt[0])} entering layer 0 and "
                f"{told(corrupt[1])} at the end, with what every prompt of this form has in it, which the difference cancels."
            ),
            "The pullback direction is read; nothing here shows that it causes anything.",
            *tested, ends,
        ),
    )  # fmt: skip
    return Chapter([section], [rules.late_layers(of[READINGS[0]], late, lens.null_run_scale.double().numpy())])


def _lens_claim(run: list[dict[str, Any]], late: tuple[int, ...], added: list[Condition]) -> str:
    end = len(run) - 1
    claim = f"Read off the residual, the metric's difference between clean and corrupt prompts is {told(run[end])}"
    if not run[end]["low"] > 0:
        where = "below zero" if run[end]["high"] < 0 else "not distinguishable from zero"
        return f"{claim} at the end, {where}: there is nothing for layers to have shares in."
    if not late:
        half = next(layer for layer in range(end + 1) if run[layer]["mean"] >= run[end]["mean"] / 2)
        return f"{claim} at the end, and half of that is there entering layer {half}."
    after = "at the end" if late[-1] + 1 == end else f"at the end, {told(run[late[-1] + 1])} after the late layers"
    shares = [percent(c.mean, c.low, c.high) for c in added]
    return (
        f"{claim} {after}, and {told(run[late[0]])} entering layer {late[0]}: the late {rules.layers_named(late)} add "
        f"{shares[0]} of the final difference ({shares[1]} with every residual read at its own scale)."
    )


def _lens_table(lens: LogitLens, of: dict[str, Rows]) -> tuple[pd.DataFrame, list[str]]:
    """Differences with their nulls, then the absolute readings; and why there may be no p."""
    parts: list[pd.DataFrame] = []
    for rows, null in zip(of.values(), (lens.null_run_scale, lens.null_own_scale), strict=True):
        found = sweep_summary(rows.frame, ["reading", "layer"], "value", clusters=lens.clusters)
        low, high = np.quantile(null.double().numpy(), _MIDDLE, axis=0)
        parts.append(found.assign(series="clean − corrupt", null_low=low, null_high=high))
    both = pd.concat(parts)
    absolute = summary(lens.to_frame(), ["reading", "side", "layer"], "value", clusters=lens.clusters)
    table = pd.concat([both, absolute.rename(columns={"side": "series"})], ignore_index=True)
    columns = ["reading", "series", "layer", "mean", "low", "high", "p", "null_low", "null_high", "n"]
    return table[columns], _tested(both, "layers of a reading")


def _attribution(shares: LogitAttribution) -> Chapter:
    table, tested = _attribution_table(shares)
    totals = {r["component"]: r for r in records(table[table["kind"] == "total"])}
    blocks = table[table["kind"].isin(KINDS)]
    top = largest(blocks, "mean")
    against = blocks[blocks["beyond"] & (blocks["mean"] < 0)].sort_values("mean")
    less = ", ".join(f"{r['component']} ({told(r)})" for r in records(against.head(3))) or "no single block"
    claim = (
        f"Of the metric's difference between clean and corrupt prompts, {told(totals['metric'])}, attention outputs write "
        f"{told(totals[_WRITERS['attn_out']])} directly, MLP outputs {told(totals[_WRITERS['mlp_out']])} and all else "
        f"{told(totals[_ELSE])}; the largest single share is {top['component']}'s, {told(top)}, and it is lowered beyond "
        f"chance and random directions by {less}."
    )
    cap = f" The soft cap at ±{shares.softcap:g} is a term of its own." if shares.softcap is not None else ""
    section = Section(
        "attribution", TITLES["attribution"], minus(claim),
        {"attribution": shares.figure(), "attribution-heads": shares.heads_figure()},
        "Each bar is what one attention or MLP output adds to the metric through the final norm and the unembedding, clean − "
        "corrupt, with 95 % intervals over pairs; the map shares attention out among its heads. A dot: p ≤ 0.05 over all "
        "heads, and outside the middle 95 % of random directions. All else: embedding, biases, any soft cap, rounding.",
        "Shares within null_low to null_high: along a random direction as long, the same outputs differ as much.",
        PUBLISHED["attribution"], table,
        (
            (
                f"All terms add up to the metric of every prompt within {shares.residual.abs().max().item():.0e}, heads to "
                f"their block within {shares.head_residual.abs().max().item():.0e}.{cap}"
            ),
            (
                "Only direct effects are seen: what later layers read and turn into the metric is theirs here, and a large "
                "share need not be needed. Compare with the same blocks patched."
            ),
            *tested,
        ),
    )  # fmt: skip
    return Chapter([section])


def _attribution_table(shares: LogitAttribution) -> tuple[pd.DataFrame, list[str]]:
    """Totals, then blocks and other terms by size, then heads by size; and why there may be no p."""
    gap, clusters = _difference(shares.to_frame()), shares.clusters
    summed = gap.assign(kind=gap["kind"].map(_WRITERS).fillna(_ELSE))
    both = pd.concat([summed, gap.assign(kind="metric")]).groupby(["pair", "kind"])["value"].sum().reset_index()
    totals = summary(both, ["kind"], "value", clusters=clusters).sort_values("kind", key=lambda k: k.map(_TOTALS.index))
    written = gap[(gap["value"] != 0).groupby(gap["component"]).transform("any")]  # a model without biases has none
    terms = sweep_summary(written, ["component", "kind"], "value", clusters=clusters)
    by_head = _difference(shares.heads_frame()).assign(kind="head")
    heads = sweep_summary(by_head, ["component", "kind"], "value", clusters=clusters)
    sized = [part.sort_values("mean", key=lambda mean: -mean.abs()) for part in (terms, heads)]
    table = pd.concat([totals.assign(component=totals["kind"], kind="total"), *sized], ignore_index=True)
    table = table.join(_nulls(shares), on="component")
    outside = (table["mean"] < table["null_low"]) | (table["mean"] > table["null_high"])
    table["beyond"] = outside.astype("boolean").where(table["survives"].notna()) & table["survives"].astype("boolean")
    columns = ["component", "kind", "mean", "low", "high", "p", "null_low", "null_high", "beyond", "n"]
    return table[columns], _tested(terms, "terms, or all heads")


def _nulls(shares: LogitAttribution) -> pd.DataFrame:
    """The middle 95 % of random directions by component, totals of the kinds included."""
    total, written, heads = (
        np.quantile(null.double().numpy(), _MIDDLE, axis=0)
        for null in (shares.null_written.sum(-1), shares.null_written, shares.null_heads)
    )
    of = {name: total[:, k] for k, name in enumerate(_WRITERS.values())}
    for layer in range(heads.shape[1]):
        of |= {Site(kind, layer).label: written[:, k, layer] for k, kind in enumerate(KINDS)}
        of |= {head(layer, h).label: heads[:, layer, h] for h in range(heads.shape[2])}
    return pd.DataFrame.from_dict(of, orient="index", columns=["null_low", "null_high"])


def _difference(frame: pd.DataFrame) -> pd.DataFrame:
    """`value` clean − corrupt of every other row of a frame; both sides' rows come in one order."""
    clean, corrupt = (frame[frame["side"] == side].reset_index(drop=True) for side in SIDES)
    return clean.assign(value=clean["value"] - corrupt["value"]).drop(columns="side")


def _tested(table: pd.DataFrame, what: str) -> list[str]:
    """What p is, or why there is none."""
    least = table["least_p"].min()
    if least > ALPHA:
        return [f"There is no p: too few pairs, or templates of pairs, for any to reach {ALPHA:g} (least {least:.3g})."]
    return [f"p: that the difference is zero, adjusted for having looked at all {what} (max-T)."]
