"""Where the information is, which stage is needed where, and whether any single block carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import pandas as pd
import plotly.graph_objects as go

from circuits.case.condition import Rows
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import stages
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.engine.sweep import Direction
from circuits.frames import largest, records
from circuits.measure.blocks import BlockPatching, patch_blocks
from circuits.measure.groups import GroupPatching, patch_groups
from circuits.measure.residual import ResidualPatching, patch_residual
from circuits.report import Section
from circuits.result import Result

STEPS: Final = 3
FRACTION: Final = (
    "Fraction recovered: 0 is the run patched into, 1 the run patched from, per pair and then averaged. Denoising patches "
    "clean activations into corrupt prompts, noising corrupt ones into clean prompts."
)
SURVIVING: Final = "p is adjusted for all cells of the sweep (max-T, signs of whole pairs, or templates, flipped)."


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
        [_residual(found.residual), _groups(found.groups), _blocks(found.blocks)],
        [
            stages.early_enrichment(noised),
            stages.middle_handover(noised, denoised, groups),
            stages.late_response(noised),
            stages.no_single_block(Rows.of(found.blocks["noise"])),
        ],
    )


def _residual(results: Mapping[Direction, ResidualPatching]) -> Section:
    frame, table = results["denoise"].to_frame(), results["denoise"].to_summary()
    subjects = frame.loc[frame["role"] == "subject", "pos"].unique()
    last = table[table["pos"] == -1]
    subject = table[table["pos"].isin(subjects)].groupby("layer")["low"].min()
    alone = [int(str(layer)) for layer, low in subject.items() if low >= 0.9]
    arrived = [r["layer"] for r in records(last) if r["low"] >= 0.9]
    between = int(((last["mean"] > 0.1) & (last["mean"] < 0.9)).sum())
    return Section(
        "residual", "Where: residual stream patching",
        f"Denoised, the subject position alone recovers at least 90 % {_up_to(alone)}; the last position does "
        f"{_from(arrived)}. The last position holds between 10 % and 90 % entering {between} layers.",
        figures("residual", results), f"{FRACTION} {SURVIVING}",
        "Effects at positions that are neither, or a last position that matters before anything could have reached it.",
        PUBLISHED["residual"], tables(results),
        (results["denoise"].provenance.certificate, results["noise"].provenance.certificate),
    )  # fmt: skip


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


def _blocks(results: Mapping[Direction, BlockPatching]) -> Section:
    table = tables(results)
    top = largest(table[table["direction"] == "noise"], "mean")
    what = {"attn_out": "attention", "mlp_out": "MLP"}[top["kind"]]
    survive = {d: int(table.loc[table["direction"] == d, "survives"].sum()) for d in results}
    return Section(
        "blocks", "Which block: attention and MLP outputs one by one",
        f"The largest effect of noising one block at one position is {top['mean']:.2f} [{top['low']:.2f}, {top['high']:.2f}]: "
        f"{what} {top['layer']} at {top['pos']}. {survive['noise']} cells survive the sweep-wide test under noising, "
        f"{survive['denoise']} under denoising.",
        figures("blocks", results), f"{FRACTION} {SURVIVING}",
        "One block that moves most of the metric by itself. Small effects do not show that blocks do not matter: others may "
        "do the same or repair the loss.",
        PUBLISHED["blocks"], table, (results["denoise"].provenance.certificate,),
    )  # fmt: skip


def figures(stem: str, results: Mapping[Direction, Result]) -> dict[str, go.Figure]:
    """Each direction's figure under its own stem."""
    return {f"{stem}-{direction}": result.figure() for direction, result in results.items()}


def tables(results: Mapping[Direction, ResidualPatching | GroupPatching | BlockPatching]) -> pd.DataFrame:
    """Both directions' summaries, one under the other."""
    return pd.concat([result.to_summary() for result in results.values()], ignore_index=True)


def certificate_line(both: Mapping[Direction, Result]) -> str:
    """The first and the last part of a certificate, for one line of a terminal; the report has the rest."""
    parts = both["denoise"].provenance.certificate.split("; ")
    return f"{parts[0]}, {parts[-1]}"


def _up_to(layers: list[int]) -> str:
    return f"up to layer {max(layers)}" if layers else "at no layer"


def _from(layers: list[int]) -> str:
    return f"from layer {min(layers)} on" if layers else "at no layer"
