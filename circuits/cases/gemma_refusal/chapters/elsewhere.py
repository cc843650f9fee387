"""Do the direct heads matter on other prompts? Edited on unpaired instructions, metric and completions side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from circuits.case.condition import Rows, minus
from circuits.case.wording import number, told
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.errors import TokenError
from circuits.frames import records
from circuits.measure.transfer import OPPOSED, Transfer, transfer
from circuits.prompts import InstructionSet
from circuits.prompts.chat import Template
from circuits.report import Section
from circuits.sites import Site

STEPS: Final = 1
EDITED: Final = {"direct": "direct heads", "all others": "heads in neither class"}
"""Sets of heads that are edited, where there are such heads, and what they are called."""


def measure(
    s: Setting, sets: Mapping[str, Sequence[Site]], diverse: InstructionSet, template: Template, *, null_draws: int
) -> Transfer | Missing:
    """Direct heads, and all that are in no class, edited on unpaired instructions and on the pairs' own prompts."""
    labels = {instruction.label for instruction in diverse}
    if labels != set(OPPOSED):
        only = " and ".join(sorted(labels)) or "no"
        return Missing(f"{diverse.name} holds {only} instructions alone: nothing tells what heads give on the others")
    prompts = diverse.tokenize(s.model, template=template)
    try:
        s.metric.bind(prompts.beside_themselves())
    except TokenError:
        return Missing(f"the metric {s.metric.name} is each pair's own: it has no value on other instructions")
    edited = {name: sets[name] for name in EDITED if name in sets}
    return s.attempt(
        "transfer",
        lambda: transfer(
            s.model, s.tokens, prompts, s.metric, sets=edited, null_draws=null_draws, max_new_tokens=s.max_new_tokens,
            seed=s.seed,
        ),
        lambda r: minus("diverse harmful: " + _shares(_rows(r.to_summary())["diverse", "harmful", "direct"])),
    )  # fmt: skip


def tell(moved: Transfer, title: str) -> Chapter:
    """The section and the verdict; prompts of either kind get what the heads give on the other."""
    table = moved.to_summary()
    rows = _rows(table)
    heads = plural(len(moved.cells["direct"]), "direct head")
    harmful, harmless = (_said(rows, "diverse", label) for label in OPPOSED)
    again = ", ".join(f"{label} {_shares(rows['pairs', label, 'direct'])}" for label in OPPOSED)
    claim = (
        f"With {heads} at {'its' if heads.startswith('1 ') else 'their'} mean over prompts of the other kind, diverse "
        f"instructions move towards that kind: harmful ones {harmful}, harmless ones {harmless}; "
        f"{_agreement(rows)}. On the prompts of the pairs: {again}."
    )
    agreed = {(r["origin"], r["cell"]): r for r in records(moved.agreement())}
    section = Section(
        "transfer", title, minus(claim), {"transfer": moved.figure()},
        "Shares of the gap between unedited harmful and harmless prompts of the same set: 0 is no change, 1 the other kind's "
        "mean. Grey: the metric; blue: refusals among completions. The dashed line is one half: a set of heads moves what is "
        "above it.",
        "Refusals that stay where the metric moves, so that the metric no longer stands for them; or random heads that do as "
        "much.",
        PUBLISHED["transfer"], _table(table),
        (
            _null(rows["diverse", "harmful", "direct"]),
            (
                "No other prompt tells what a head should give here, so its mean does, at the last position alone. On the "
                "pairs the same is done, so that the two sets compare; patching each with its own counterpart is another edit."
            ),
            "The gaps are taken as known: a share's interval is that of its change alone.",
            *_auroc(agreed["diverse", "direct"]),
            *_overlap(moved),
        ),
    )  # fmt: skip
    return Chapter([section], [rules.matters_elsewhere(Rows(moved.to_frame().rename(columns={"prompt": "pair"})))])


def spread(mean: float, low: float, high: float) -> str:
    """A number with its interval, from three numbers."""
    return told({"mean": mean, "low": low, "high": high})


def plural(n: int, what: str) -> str:
    """`1 direct head`, `9 direct heads`."""
    return f"{n} {what}{'s' * (n != 1)}"


def _rows(table: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(r["origin"], r["label"], r["cell"]): r for r in records(table)}


def _share(row: Mapping[str, Any], kind: str) -> str:
    return spread(*(row[f"{kind}_fraction{end}"] for end in ("", "_low", "_high")))


def _shares(row: Mapping[str, Any]) -> str:
    """Both shares of the gap, without what they were made of."""
    return f"metric {_share(row, 'metric')}, refusals {_share(row, 'rate')}"


def _said(rows: Mapping[tuple[str, str, str], dict[str, Any]], origin: str, label: str) -> str:
    """By what share of the gap the metric moves, and refusals, with their counts."""
    row, base = rows[origin, label, "direct"], rows[origin, label, "baseline"]
    before, after = (round(r["refusal_rate"] * r["n"]) for r in (base, row))
    counts = f"{before} of {row['n']} refused before, {after} after"
    if np.isnan(row["rate_fraction"]):
        return f"by {_share(row, 'metric')} of the gap in the metric ({counts}: both kinds are refused alike)"
    return f"by {_share(row, 'metric')} of the gap in the metric and {_share(row, 'rate')} in refusals ({counts})"


def _agreement(rows: Mapping[tuple[str, str, str], dict[str, Any]]) -> str:
    """Whether metric and completions of diverse prompts go together, in words."""
    mine = {label: rows["diverse", label, "direct"] for label in OPPOSED}
    apart = [
        f"on {k} ones {r['verdict'].partition(': ')[2]}" for k, r in mine.items() if r["verdict"].startswith("dis")
    ]
    if apart:
        return f"metric and completions disagree: {' and '.join(apart)}"
    known = {k: r for k, r in mine.items() if np.isfinite(r["differ"])}
    if not known:
        return "whether metric and completions agree cannot be said"
    clear = {k: r for k, r in known.items() if r["differ_low"] > 0 or r["differ_high"] < 0}
    if not clear:
        return "metric and completions move alike, as far as the intervals tell"
    return "metric and completions do not move alike: " + " and ".join(
        f"on {k} ones the metric's share less that of refusals is {spread(r['differ'], r['differ_low'], r['differ_high'])}"
        for k, r in clear.items()
    )


def _null(row: Mapping[str, Any]) -> str:
    if np.isnan(row["null_metric_min"]):
        return "The layers of these heads have too few others for a random set of as many: there is no null."
    of = {
        kind: f"{number(row[f'null_{kind}_min'])} to {number(row[f'null_{kind}_max'])}" for kind in ("metric", "rate")
    }
    return minus(
        "Null: as many random heads of the same layers, edited in the same way, move diverse harmful prompts by "
        f"{of['metric']} of the gap in the metric and {of['rate']} in refusals."
    )


def _auroc(row: Mapping[str, Any]) -> list[str]:
    """Whether the metric still ranks refused prompts above answered ones, with the heads edited."""
    if np.isnan(row["auroc"]):
        return [
            "With the heads edited all or none of the diverse prompts are refused: the metric has nothing to tell apart."
        ]
    area = spread(row["auroc"], row["auroc_low"], row["auroc_high"])
    return [f"With the heads edited the metric tells refused diverse prompts from answered ones with AUROC {area}."]


def _overlap(moved: Transfer) -> list[str]:
    """Prompts of the diverse set that the heads were found on after all."""
    texts = {o: [t for t, of in zip(moved.prompts, moved.origin, strict=True) if of == o] for o in ("pairs", "diverse")}
    same = sum(text in set(texts["pairs"]) for text in texts["diverse"])
    return [f"{same} of {len(texts['diverse'])} diverse instructions are prompts of the pairs too."] if same else []


def _table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of prompts and set of heads, the diverse ones and the direct heads first."""
    base = {(o, k): r["refusal_rate"] for (o, k, cell), r in _rows(table).items() if cell == "baseline"}
    edited = table[table["cell"] != "baseline"].sort_values(["origin", "label"], kind="stable")
    told: list[dict[str, Any]] = []
    for r in records(edited):
        row = {"prompts": f"{r['origin']}, {r['label']}", "edited": EDITED[r["cell"]]}
        for kind, name in (("metric", "metric"), ("rate", "refusal")):
            row |= {f"{name}_{e or 'share'}": r[f"{kind}_fraction{e and '_' + e}"] + 0.0 for e in ("", "low", "high")}
        row |= {"refused_before": base[r["origin"], r["label"]], "refused": r["refusal_rate"], "n": r["n"]}
        told.append(row | {"metric_and_refusals": r["verdict"]})
    return pd.DataFrame(told)
