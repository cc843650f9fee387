"""Sections on patching that several cases tell: residual stream, single blocks, single heads, heads together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go

from circuits.engine.sweep import Direction
from circuits.frames import largest, records
from circuits.measure.blocks import BlockPatching
from circuits.measure.groups import GroupPatching
from circuits.measure.head_sets import HeadSetPatching
from circuits.measure.heads import HeadPatching
from circuits.measure.residual import ResidualPatching
from circuits.report import Section
from circuits.result import Result

FRACTION: Final = (
    "Fraction recovered: 0 is the run patched into, 1 the run patched from, per pair and then averaged. Denoising patches "
    "clean activations into corrupt prompts, noising corrupt ones into clean prompts."
)
SURVIVING: Final = "p is adjusted for all cells of the sweep (max-T, signs of whole pairs, or templates, flipped)."


def residual(results: Mapping[Direction, ResidualPatching], published: str = "") -> Section:
    """Where the information is, layer by layer."""
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
        published, tables(results),
        (results["denoise"].provenance.certificate, results["noise"].provenance.certificate),
    )  # fmt: skip


def blocks(results: Mapping[Direction, BlockPatching], published: str = "") -> Section:
    """Whether any single attention or MLP output carries it."""
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
        published, table, (results["denoise"].provenance.certificate,),
    )  # fmt: skip


def heads(results: Mapping[Direction, HeadPatching], published: str = "") -> Section:
    """Which heads act one by one."""
    table = pd.concat([r.to_summary() for r in results.values()], ignore_index=True)
    noised = table[table["direction"] == "noise"]
    top: list[dict[str, Any]] = sorted(records(noised), key=lambda r: -abs(r["mean"]))[:3]
    named = ", ".join(f"{r['label']} {r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in top)
    return Section(
        "heads", "Which head: one by one, at the last position",
        f"The largest effects under noising: {named}; {int(noised['survives'].sum())} of {len(noised)} heads survive the "
        "sweep-wide test.",
        figures("heads", results), f"{FRACTION} {SURVIVING}",
        "Effects spread evenly over all heads.", published, table, (results["denoise"].provenance.certificate,),
    )  # fmt: skip


def head_sets(
    results: Mapping[Direction, HeadSetPatching], published: str = "", *, title: str, chosen: str, notes: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Section:  # fmt: skip
    """Sets of heads patched together, beside random sets; `chosen` says how the sets came about.

    The claim names the sets in `only` (default: all); others are in the table.
    """
    table = pd.concat([r.to_summary() for r in results.values()], ignore_index=True)
    parts = [
        f"{r['set']} {r['direction'][:-1]}ed {r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
        for r in records(table) if not only or r["set"] in only
    ]  # fmt: skip
    return Section(
        "head-sets", title,
        "Fraction recovered: " + "; ".join(parts) + ".",
        figures("head-sets", results),
        FRACTION + ("" if only else " Beside each set: random sets of as many heads, its own excluded (mean)."),
        "Random sets of the same size that do as much.", published, table,
        (chosen, *notes, results["noise"].provenance.certificate),
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


def _up_to(layers: Sequence[int]) -> str:
    return f"up to layer {max(layers)}" if layers else "at no layer"


def _from(layers: Sequence[int]) -> str:
    return f"from layer {min(layers)} on" if layers else "at no layer"
