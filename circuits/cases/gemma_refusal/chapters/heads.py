"""What heads attend to, which of them act one by one, and which together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import pandas as pd

from circuits.case.condition import Rows
from circuits.cases.gemma_refusal.chapters.stages import FRACTION, SURVIVING, certificate_line, figures
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import stages
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.engine.sweep import Direction
from circuits.frames import records
from circuits.measure.attention import CLASSES, HeadClasses, classify_heads
from circuits.measure.head_sets import HeadSetPatching, patch_head_sets
from circuits.measure.heads import HeadPatching, patch_heads
from circuits.report import Section

STEPS: Final = 3


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Classes, single heads and sets of heads."""

    classes: HeadClasses
    single: Mapping[Direction, HeadPatching]
    sets: Mapping[Direction, HeadSetPatching]


def measure(s: Setting) -> Found:
    """Heads classified, patched one by one at the last position, and class by class at all positions."""
    classes = s.measure(
        "attention", lambda: classify_heads(s.model, s.tokens, threshold=s.threshold), lambda r: _counts(r.to_summary())
    )
    single = s.measure("heads", lambda: s.both(patch_heads), certificate_line)
    together = partial(patch_head_sets, sets=classes.sets(), seed=s.seed)
    return Found(classes, single, s.measure("sets", lambda: s.both(together), certificate_line))


def tell(s: Setting, found: Found) -> Chapter:
    """Classes, single heads, sets."""
    table = found.classes.to_summary()
    direct = tuple(table.loc[table["klass"] == "direct", "label"])
    noised, denoised = (Rows.of(found.sets[d]) for d in ("noise", "denoise"))
    return Chapter(
        [_attention(found.classes, table), _heads(found.single), _sets(found.sets, table)],
        [
            stages.direct_heads(noised, denoised, Rows.of(found.classes), direct, s.threshold),
            stages.diagonal_antagonism(denoised),
        ],
    )


def _counts(table: pd.DataFrame) -> str:
    return ", ".join(f"{int((table['klass'] == k).sum())} {k}" for k in CLASSES)


def _attention(classes: HeadClasses, table: pd.DataFrame) -> Section:
    direct = table[table["klass"] == "direct"]
    spread = f" Direct heads stand in {direct['layer'].nunique()} layers." if len(direct) else ""
    return Section(
        "attention", "What heads attend to",
        f"Of {len(table)} heads: {_counts(table)}.{spread}",
        {"attention": classes.figure()},
        "One small map per head, rows attend to columns, averaged over the clean prompts; title: class and its score. "
        f"Direct: last → subject; diagonal: token → previous; both from {classes.threshold}; BOS from 0.5.",
        "Scores that change class from pair to pair: see the intervals in the table.",
        PUBLISHED["attention"], table,
        ("The diagonal score is the mean over tokens, so that one threshold serves prompts of any length.",),
    )  # fmt: skip


def _heads(results: Mapping[Direction, HeadPatching]) -> Section:
    table = pd.concat([r.to_summary() for r in results.values()], ignore_index=True)
    noised = table[table["direction"] == "noise"]
    top: list[dict[str, Any]] = sorted(records(noised), key=lambda r: -abs(r["mean"]))[:3]
    named = ", ".join(f"{r['label']} {r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in top)
    return Section(
        "heads", "Which head: one by one, at the last position",
        f"The largest effects under noising: {named}; {int(noised['survives'].sum())} of {len(noised)} heads survive the "
        "sweep-wide test.",
        figures("heads", results), f"{FRACTION} {SURVIVING}",
        "Effects spread evenly over all heads.", "", table, (results["denoise"].provenance.certificate,),
    )  # fmt: skip


def _sets(results: Mapping[Direction, HeadSetPatching], classes: pd.DataFrame) -> Section:
    table = pd.concat([r.to_summary() for r in results.values()], ignore_index=True)
    parts = [
        f"{r['set']} {r['direction'][:-1]}ed {r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in records(table)
    ]
    empty = [name for name in ("direct", "diagonal") if not (classes["klass"] == name).any()]
    none = [f"No head is {' or '.join(empty)} at this threshold: there is nothing to patch together."] if empty else []
    return Section(
        "head-sets", "Heads together: classes patched at their own results",
        "Fraction recovered: " + "; ".join(parts) + ".",
        figures("head-sets", results),
        FRACTION + " Beside each set: random sets of as many heads, its own excluded (mean).",
        "Random sets of the same size that do as much.", PUBLISHED["head-sets"], table,
        (
            "The classes come from the same prompts they are tested on.", *none,
            results["noise"].provenance.certificate,
        ),
    )  # fmt: skip
