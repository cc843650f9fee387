"""Where the information is, which stage is needed where, and whether any single block carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, final

from circuits.case.condition import Rows
from circuits.case.sections.patching import FRACTION, blocks, certificate_line, figures, residual, tables
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import stages
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.engine.sweep import Direction
from circuits.frames import records
from circuits.measure.blocks import BlockPatching, patch_blocks
from circuits.measure.groups import GroupPatching, patch_groups
from circuits.measure.residual import ResidualPatching, patch_residual
from circuits.report import Section

STEPS: Final = 3


@final
@dataclass(frozen=True, eq=False)
class Found:
    """The three sweeps, in both directions."""

    residual: Mapping[Direction, ResidualPatching]
    groups: Mapping[Direction, GroupPatching]
    blocks: Mapping[Direction, BlockPatching]


def measure(s: Setting) -> Found:
    """Residual stream, groups of blocks and single blocks patched."""
    return Found(
        s.measure("residual", lambda: s.both(patch_residual), certificate_line),
        s.measure("groups", lambda: s.both(partial(patch_groups, groups=s.groups))),
        s.measure("blocks", lambda: s.both(patch_blocks), certificate_line),
    )


def tell(s: Setting, found: Found) -> Chapter:
    """Where, which stage, which block."""
    noised, denoised = Rows.of(found.groups["noise"]), Rows.of(found.residual["denoise"])
    groups = dict(s.groups)
    return Chapter(
        [
            residual(found.residual, PUBLISHED["residual"]), _groups(found.groups), blocks(found.blocks, PUBLISHED["blocks"]),
        ],
        [
            stages.early_enrichment(noised),
            stages.middle_handover(noised, denoised, groups),
            stages.late_response(noised),
            stages.no_single_block(Rows.of(found.blocks["noise"])),
        ],
    )


def _groups(results: Mapping[Direction, GroupPatching]) -> Section:
    table = tables(results)
    noised = table[(table["direction"] == "noise") & table["necessary"]]
    names = {"attn_out": "attention", "mlp_out": "MLPs"}
    needed = ", ".join(f"{r['group']} {names[r['kind']]} at {r['position']} ({r['mean']:.2f})" for r in records(noised))
    return Section(
        "groups", "Which stage: groups of blocks",
        f"Necessary under noising (at least half recovered): {needed or 'none'}.",
        figures("groups", results), FRACTION + " Whiskers: 95 % intervals over pairs; dashed line: one half.",
        "Early attention that matters at the last position, or late attention that still does.",
        PUBLISHED["groups"], table, (results["noise"].provenance.certificate,),
    )  # fmt: skip


