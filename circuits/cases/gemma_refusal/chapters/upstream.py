"""What do the direct heads do? What is said when they are patched.

What they write and read along the direction is told in `upstream_direction`, what they do on other prompts in `elsewhere`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuits.case.condition import HALF, Rows, minus
from circuits.case.wording import number, percent
from circuits.cases.gemma_refusal.chapters import elsewhere
from circuits.cases.gemma_refusal.chapters import upstream_direction as along
from circuits.cases.gemma_refusal.chapters.elsewhere import plural
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.draw import bars
from circuits.engine.sweep import Direction
from circuits.errors import SiteError, UndefinedError
from circuits.frames import records
from circuits.interventions import Patch
from circuits.measure.attention import HeadClasses
from circuits.measure.directions import DirectionChoice
from circuits.measure.head_writes import HeadWrites, head_writes
from circuits.measure.ov import OvCircuits, ov_circuits
from circuits.measure.patched_behaviour import PatchedBehaviour, patched_behaviour
from circuits.measure.transfer import Transfer
from circuits.prompts import InstructionSet
from circuits.prompts.chat import Template
from circuits.report import Completion, Section
from circuits.sites import Site

STEPS: Final = 3 + elsewhere.STEPS
TITLES: Final = {
    "spoken": "What it says: completions under patches",
    "head-writes": "What the direct heads write along the direction",
    "ov": "What they read to write it: OV circuits",
    "transfer": "Do the direct heads matter on other prompts?",
}
ASKED: Final = 8
"""How many direct heads at most are asked what they read: those that write most."""
NULL_DRAWS: Final = 5
"""Random sets of heads under which every prompt is completed."""
SIDE: Final[dict[Direction, str]] = {"noise": "clean", "denoise": "corrupt"}
"""Which prompts a direction of patching completes."""
_PATCHED: Final = {
    "baseline": "nothing",
    "null": "random heads",
    "direct": "direct heads",
    "direct + diagonal": "both classes",
}
"""Cells as a figure names them."""


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Completions under patches in both directions, writes, readings, and the same heads on other prompts."""

    spoken: Mapping[Direction, PatchedBehaviour] | Missing
    writes: HeadWrites | Missing
    reads: OvCircuits | Missing
    moved: Transfer | Missing
    direct: tuple[str, ...]
    """Labels of the direct heads."""


def measure(
    s: Setting, chosen: DirectionChoice | Missing, classes: HeadClasses, diverse: InstructionSet, *,
    template: Template = "auto",
) -> Found:  # fmt: skip
    """Without direct heads nothing is run; without a direction, nothing along it.

    `template` is the one the pairs were tokenised with, for `diverse`.
    """
    sets = classes.sets()
    direct = sets.get("direct", ())
    if not direct:
        none = Missing(f"no head scores as direct at threshold {classes.threshold:g}")
        return Found(none, none, none, none, ())
    spoken = s.attempt("patched completions", lambda: _complete(s, sets), _rates_line)
    writes = _writes(s, chosen, direct)
    if isinstance(chosen, Missing):
        reads: OvCircuits | Missing = chosen
    else:
        asked = _asked(direct, classes, writes)
        reads = s.attempt("ov circuits", lambda: _read(s, chosen, asked), lambda r: r.provenance.certificate)
    moved = elsewhere.measure(s, sets, diverse, template, null_draws=NULL_DRAWS)
    return Found(spoken, writes, reads, moved, tuple(h.label for h in direct))


def _complete(s: Setting, sets: Mapping[str, Sequence[Site]]) -> dict[Direction, PatchedBehaviour]:
    """Direct heads noised and denoised, alone and together with the diagonal ones where there are any."""
    cells = {name: tuple(Patch(h) for h in sets[name]) for name in ("direct", "direct + diagonal") if name in sets}
    return {
        direction: patched_behaviour(
            s.model, s.tokens, s.metric, cells=cells, direction=direction, null_draws=NULL_DRAWS,
            max_new_tokens=s.max_new_tokens, seed=s.seed,
        ) for direction in SIDE
    }  # fmt: skip


def _writes(s: Setting, chosen: DirectionChoice | Missing, direct: Sequence[Site]) -> HeadWrites | Missing:
    if isinstance(chosen, Missing):
        return chosen
    if len(direct) == s.model.shape.n_layers * s.model.shape.n_heads:
        return Missing("every head scores as direct: no other is left to compare with")
    return s.attempt(
        "head writes", lambda: head_writes(s.model, s.tokens, chosen.held_out, heads=direct, seed=s.seed),
        lambda r: minus(f"direct − others {number(along.of_all(r.to_summary(), 'value')['effect'])} along the direction"),
    )  # fmt: skip


def _asked(direct: Sequence[Site], classes: HeadClasses, writes: HeadWrites | Missing) -> list[Site]:
    """The direct heads that write most, in the model's order; where no writes are known, the most direct ones."""
    if isinstance(writes, Missing):
        table, by = classes.to_summary(), "direct"
    else:
        table, by = writes.heads_frame(), "value"
    size = dict(zip(table["label"], table[by].abs(), strict=True))
    return sorted(sorted(direct, key=lambda h: -size[h.label])[:ASKED])


def _read(s: Setting, chosen: DirectionChoice, asked: Sequence[Site]) -> OvCircuits:
    try:
        return ov_circuits(s.model, s.tokens, chosen.held_out, heads=asked)
    except SiteError as error:  # heads of this model, so it is its values: they are no matrix of the residual
        raise UndefinedError(str(error)) from error


def tell(s: Setting, found: Found) -> Chapter:
    """What is said, written and read; then the same heads on other prompts."""
    told = (
        _absent("spoken", found.spoken) if isinstance(found.spoken, Missing) else _tell_spoken(s, found.spoken),
        _absent("head-writes", found.writes)
        if isinstance(found.writes, Missing)
        else along.tell_writes(found.writes, TITLES["head-writes"]),
        _absent("ov", found.reads)
        if isinstance(found.reads, Missing)
        else along.tell_reads(found.reads, TITLES["ov"], found.direct),
        _absent("transfer", found.moved)
        if isinstance(found.moved, Missing)
        else elsewhere.tell(found.moved, TITLES["transfer"]),
    )
    return Chapter(
        [section for part in told for section in part.sections],
        [verdict for part in told for verdict in part.verdicts],
        [completion for part in told for completion in part.completions],
    )


def _absent(anchor: str, missing: Missing) -> Chapter:
    return Chapter(
        [missing.section(anchor, TITLES[anchor], PUBLISHED[anchor])], rules.unmeasured(anchor, missing.reason)
    )


def _rates_line(spoken: Mapping[Direction, PatchedBehaviour]) -> str:
    base, patched = (spoken["noise"].rate(cell).estimate for cell in ("baseline", "direct"))
    return f"direct heads noised: refuses {patched:.0%} (was {base:.0%})"


def _tell_spoken(s: Setting, spoken: Mapping[Direction, PatchedBehaviour]) -> Chapter:
    tables: dict[Direction, pd.DataFrame] = {direction: result.to_summary() for direction, result in spoken.items()}
    rows = {(d, r["cell"]): r for d, table in tables.items() for r in records(table)}
    heads = plural(len(spoken["noise"].cells["direct"]), "direct head")
    both = rows.get(("denoise", "direct + diagonal"))
    besides = "" if both is None else f", and {_counted(both)} with diagonal heads denoised as well"
    claim = (
        f"With the {heads} noised, {_counted(rows['noise', 'direct'], ' clean prompts')} are refused"
        f"{_against(rows['noise', 'direct'], rows['noise', 'baseline'])}; denoised, "
        f"{_counted(rows['denoise', 'direct'], ' corrupt prompts')} are"
        f"{_against(rows['denoise', 'direct'], rows['denoise', 'baseline'])}{besides}."
    )
    drawn = sum(of == "direct" for of in spoken["noise"].null_of.values())
    null = "The layers of these heads have too few others for a random set of as many: there is no null." if not drawn else (
        f"Random: {drawn} sets of as many other heads of the same layers, too few for a p below {1 / (1 + drawn):.2f}; the "
        "verdict asks the set that changes most."
    )  # fmt: skip
    section = Section(
        "spoken", TITLES["spoken"], claim,
        {"spoken": _figure(tables, spoken["noise"].provenance.caption)},
        "Share of completions that refuse, with Wilson's intervals. random heads: as many as the direct ones, mean over sets "
        "with whiskers from the least to the most; both classes: direct and diagonal heads. A perfect patch would give either "
        "panel the other's share with nothing patched.",
        "Refusals that survive the noising or that random heads take away too; for the reverse, corrupt prompts that are "
        "still answered with the direct heads denoised.",
        PUBLISHED["spoken"], _spoken_table(tables),
        (
            null,
            "Noising asks whether the heads are needed, denoising whether they are enough; each has a verdict of its own.",
            (
                f"Patches act on the prompt; what is generated, at most {s.max_new_tokens} tokens, is left alone. "
                "p: McNemar's, adjusted over the patches of a direction (Holm)."
            ),
            "The heads are called direct for their attention on these same prompts.",
        ),
    )  # fmt: skip
    verdicts = [rules.noised_says(Rows.of(spoken["noise"])), rules.denoised_says(Rows.of(spoken["denoise"]))]
    return Chapter([section], verdicts, _completions(spoken))


def _counted(row: Mapping[str, Any], prompts: str = "") -> str:
    rate = percent(row["refusal_rate"], row["rate_low"], row["rate_high"])
    return f"{round(row['refusal_rate'] * row['n'])} of {row['n']}{prompts} ({rate})"


def _against(row: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """What is refused unpatched, and under random sets, in prompts."""
    least, most = ((base["refusal_rate"] + row[f"null_{end}"]) * row["n"] for end in ("min", "max"))
    unpatched = f", against {round(base['refusal_rate'] * base['n'])} unpatched"
    if np.isnan(least):
        return unpatched
    between = f"{round(least)}" if round(least) == round(most) else f"{round(least)} to {round(most)}"
    return f"{unpatched} and {between} with as many random heads"


def _figure(tables: Mapping[Direction, pd.DataFrame], caption: str) -> go.Figure:
    """Refusal rates of both sides, unpatched, under random sets and under the patches."""
    shown: list[dict[str, Any]] = []
    for direction, summed in tables.items():
        panel, table = f"{SIDE[direction]} prompts, {direction[:-1]}ed", records(summed)
        base = table[0]["refusal_rate"]
        found = {r["cell"]: (r["refusal_rate"], r["rate_low"], r["rate_high"]) for r in table if r["cell"] != "source"}
        drawn = next(r for r in table if r["cell"] == "direct")
        if not np.isnan(drawn["null_mean"]):
            found["null"] = (base + drawn["null_mean"], base + drawn["null_min"], base + drawn["null_max"])
        for cell, (rate, low, high) in found.items():
            shown.append({"panel": panel, "patched": _PATCHED[cell], "rate": rate, "low": low, "high": high})
    frame = pd.DataFrame(shown)
    frame["patched"] = pd.Categorical(frame["patched"], list(_PATCHED.values()))
    return bars(
        frame, x="patched", y="rate", facet="panel", low="low", high="high", threshold=HALF, title="Refusals under patches",
        x_title="heads patched", y_title="share refused", caption=caption,
    )  # fmt: skip


def _spoken_table(tables: Mapping[Direction, pd.DataFrame]) -> pd.DataFrame:
    """Patches first, what is said without them last; `random_…` are refusal rates under random sets."""
    parts: list[pd.DataFrame] = []
    for direction, table in tables.items():
        base = float(table["refusal_rate"].iloc[0])
        names = {name: f"{name} heads {direction[:-1]}ed" for name in table["cell"]} | {"baseline": "nothing"}
        parts.append(
            table[table["cell"] != "source"].assign(
                prompts=SIDE[direction], patched=table["cell"].map(names), p=table["p_holm"],
                random_min=base + table["null_min"], random_max=base + table["null_max"],
            )
        )  # fmt: skip
    table = pd.concat(parts).sort_values("cell", key=lambda c: c == "baseline", kind="stable", ignore_index=True)
    return table[[
        "prompts", "patched", "refusal_rate", "rate_low", "rate_high", "random_min", "random_max", "p", "metric",
        "metric_low", "metric_high", "n",
    ]]  # fmt: skip


def _completions(spoken: Mapping[Direction, PatchedBehaviour]) -> list[Completion]:
    found: list[Completion] = []
    for direction, result in spoken.items():
        at, setting = list(result.cells).index("direct"), f"direct heads {direction[:-1]}ed"
        said = zip(result.prompts, result.completions[at], result.refused[at].tolist(), strict=True)
        found += [Completion(prompt, SIDE[direction], setting, text, refused) for prompt, text, refused in said]
    return found
