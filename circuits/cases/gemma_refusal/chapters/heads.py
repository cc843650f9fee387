"""What heads attend to, which of them act one by one, and which together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import pandas as pd

from circuits.case.condition import Rows
from circuits.case.sections.patching import certificate_line, head_sets, heads
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import stages
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.engine.sweep import Direction
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
        [_attention(found.classes, table), heads(found.single), _sets(found.sets, table)],
        [
            stages.direct_heads(noised, denoised, Rows.of(found.classes), direct, s.threshold),
            stages.diagonal_antagonism(denoised),
        ],
    )


def _counts(table: pd.DataFrame) -> str:
    return ", ".join(f"{int((table['klass'] == k).sum())} {k}" for k in CLASSES)


def _sets(results: Mapping[Direction, HeadSetPatching], classes: pd.DataFrame) -> Section:
    empty = [name for name in ("direct", "diagonal") if not (classes["klass"] == name).any()]
    return head_sets(
        results, PUBLISHED["head-sets"], title="Heads together: classes patched at their own results",
        chosen="The classes come from the same prompts they are tested on.",
        notes=[f"No head is {' or '.join(empty)} at this threshold: there is nothing to patch together."] if empty else [],
    )  # fmt: skip


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


