"""What the report says about each measurement: one claim made of its numbers, how to read it, what would contradict it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.engine.sweep import Direction
from circuits.frames import largest, records, summary
from circuits.measure.attention import HeadClasses
from circuits.measure.behaviour import Behaviour
from circuits.measure.blocks import BlockPatching
from circuits.measure.directions import DirectionChoice
from circuits.measure.groups import GroupPatching
from circuits.measure.head_sets import HeadSetPatching
from circuits.measure.heads import HeadPatching
from circuits.measure.residual import ResidualPatching
from circuits.measure.writes import Components
from circuits.report import Section
from circuits.result import Result

_FRACTION = (
    "Fraction recovered: 0 is the run patched into, 1 the run patched from, per pair and then averaged. Denoising patches "
    "clean activations into corrupt prompts, noising corrupt ones into clean prompts."
)


def behaviour_section(result: Behaviour, agreement: str) -> Section:
    """What the model says, and the metric."""
    table = result.to_summary()
    rate = {(r["setting"], r["side"]): f"{r['refusal_rate']:.0%}" for r in records(table)}
    return Section(
        "behaviour", "Behaviour and metric",
        f"Clean prompts are refused {rate['baseline', 'clean']} of the time, {rate['intervened', 'clean']} with the "
        f"direction ablated and {rate['control', 'clean']} with a random direction ablated; corrupt prompts "
        f"{rate['baseline', 'corrupt']}.",
        {"behaviour": result.figure()},
        f"Each dot is one prompt. Agreement of metric and refusal score: {agreement}.",
        "Refusals that survive the ablation, or that a random direction also removes.",
        PUBLISHED["behaviour"], table,
        ("Refusal is scored by twelve phrases anywhere in the completion; rates carry Wilson intervals.",),
    )  # fmt: skip


def direction_section(result: DirectionChoice) -> Section:
    """Which candidate was chosen, and by what."""
    table = result.to_frame()
    gap = result.clean - result.corrupt
    chosen = records(table[table["chosen"]])[0]
    removed = (result.clean - chosen["bypass"]) / gap
    null = (result.clean - float(result.null_bypass.min())) / gap
    tried = int(table["bypass"].notna().sum())
    undefined = int(table["bypass"].isna().sum())
    return Section(
        "direction", "The direction",
        f"The difference of means entering layer {result.layer} at position {result.position}, ablated everywhere, removes "
        f"{removed:.0%} of the metric's gap (the best of {tried} candidates); the best of {len(result.null_bypass)} random "
        f"directions removes {null:.0%}.",
        {"direction": result.figure()},
        "Each cell is one candidate (layer × position); the dot marks the chosen one: lowest metric of the clean prompts "
        f"among candidates that raise the corrupt prompts' metric when added and whose KL there is at most {result.max_kl}.",
        "Candidates no better than random directions.", PUBLISHED["direction"], table,
        (
            "Chosen on the pairs it is shown on; components below use directions estimated without each pair's fold.",
            *([f"{undefined} candidates have (nearly) no norm and are undefined."] if undefined else []),
        ),
    )  # fmt: skip


def component_sections(result: Components) -> list[Section]:
    """The component by layer, and what blocks write."""
    gap, written = result.gap_frame(), result.written_summary()
    first = next((r["layer"] for r in records(gap) if r["low"] > r["null_high"]), None)
    widest, top = largest(gap, "mean"), largest(written, "mean")
    where = "after the last block" if widest["layer"] == gap["layer"].max() else f"entering layer {widest['layer']}"
    against = written[(written["high"] < 0) & (written["mean"] < written["null_low"])]
    names = {"attn_out": "attention", "mlp_out": "MLP"}
    less = ", ".join(f"{names[r['kind']]} {r['layer']}" for r in records(against)) or "no block"
    return [
        Section(
            "component", "The direction's component by layer",
            f"The gap between clean and corrupt prompts first exceeds that of random directions entering layer "
            f"{'–' if first is None else first} and is largest, {widest['mean']:.2f}, {where}.",
            {"component": result.figure()},
            "Component of the residual stream at the last position along the direction (norm 1); bands are 95 % intervals "
            "over pairs.",
            "A gap within the range of random directions (null_low to null_high in the table).",
            PUBLISHED["component"], gap,
            ("Each pair is projected on a direction estimated without it.",),
        ),
        Section(
            "written", "What each block writes along the direction",
            f"Most of the difference, {top['mean']:.2f}, is written by {names[top['kind']]} {top['layer']}; "
            f"{less} takes some away beyond chance.",
            {"written": result.written_figure()},
            "Component of each block's output at the last position, clean − corrupt.",
            "Writes within the range of random directions.", PUBLISHED["written"], written,
        ),
    ]  # fmt: skip


def residual_section(results: Mapping[Direction, ResidualPatching]) -> Section:
    """Where the information is."""
    frame = results["denoise"].to_frame()
    last = summary(frame[frame["pos"] == -1], ["layer"], "fraction")
    subject = summary(frame[frame["role"] == "subject"], ["layer"], "fraction")
    alone = [r["layer"] for r in records(subject) if r["low"] >= 0.9]
    arrived = [r["layer"] for r in records(last) if r["low"] >= 0.9]
    between = int(((last["mean"] > 0.1) & (last["mean"] < 0.9)).sum())
    return Section(
        "residual", "Where: residual stream patching",
        f"Denoised, the subject position alone recovers at least 90 % {_up_to(alone)}; the last position does "
        f"{_from(arrived)}. The last position holds between 10 % and 90 % entering {between} layers.",
        _figures("residual", results), _FRACTION,
        "Effects at positions that are neither, or a last position that matters before anything could have reached it.",
        PUBLISHED["residual"], _tables(results, ["layer", "pos"]),
        (results["denoise"].provenance.certificate, results["noise"].provenance.certificate),
    )  # fmt: skip


def _up_to(layers: list[int]) -> str:
    return f"up to layer {max(layers)}" if layers else "at no layer"


def _from(layers: list[int]) -> str:
    return f"from layer {min(layers)} on" if layers else "at no layer"


def groups_section(results: Mapping[Direction, GroupPatching]) -> Section:
    """Which stage is needed where."""
    table = pd.concat([r.to_summary() for r in results.values()], ignore_index=True)
    noised = table[(table["direction"] == "noise") & table["necessary"]]
    names = {"attn_out": "attention", "mlp_out": "MLPs"}
    needed = ", ".join(f"{r['group']} {names[r['kind']]} at {r['position']} ({r['mean']:.2f})" for r in records(noised))
    return Section(
        "groups", "Which stage: groups of blocks",
        f"Necessary under noising (at least half recovered): {needed or 'none'}.",
        _figures("groups", results), _FRACTION + " Whiskers: 95 % intervals over pairs; dashed line: one half.",
        "Early attention that matters at the last position, or late attention that still does.",
        PUBLISHED["groups"], table, (results["noise"].provenance.certificate,),
    )  # fmt: skip


def blocks_section(results: Mapping[Direction, BlockPatching]) -> Section:
    """Single blocks."""
    table = _tables(results, ["kind", "layer", "pos"])
    top = largest(table[table["direction"] == "noise"], "mean")
    what = {"attn_out": "attention", "mlp_out": "MLP"}[top["kind"]]
    return Section(
        "blocks", "Which block: attention and MLP outputs one by one",
        f"The largest effect of noising one block at one position is {top['mean']:.2f} [{top['low']:.2f}, {top['high']:.2f}]: "
        f"{what} {top['layer']} at {top['pos']}.",
        _figures("blocks", results), _FRACTION,
        "One block that moves most of the metric by itself. Small effects do not show that blocks do not matter: others may "
        "do the same or repair the loss.",
        PUBLISHED["blocks"], table, (results["denoise"].provenance.certificate,),
    )  # fmt: skip


def attention_section(classes: HeadClasses) -> Section:
    """Head classes."""
    table = classes.to_summary()
    counts = ", ".join(f"{int((table['klass'] == k).sum())} {k}" for k in ("direct", "diagonal", "BOS", "other"))
    direct = table[table["klass"] == "direct"]
    spread = f" Direct heads stand in {direct['layer'].nunique()} layers." if len(direct) else ""
    return Section(
        "attention", "What heads attend to",
        f"Of {len(table)} heads: {counts}.{spread}",
        {"attention": classes.figure()},
        "One small map per head, rows attend to columns, averaged over the clean prompts; title: class and its score. "
        f"Direct: last → subject; diagonal: token → previous; both from {classes.threshold}; BOS from 0.5.",
        "Scores that change class from pair to pair: see the intervals in the table.",
        PUBLISHED["attention"], table,
        ("The diagonal score is the mean over tokens, so that one threshold serves prompts of any length.",),
    )  # fmt: skip


def heads_section(results: Mapping[Direction, HeadPatching]) -> Section:
    """Single heads at the last position."""
    table = _tables(results, ["layer", "head", "label"])
    noised = table[table["direction"] == "noise"]
    top = sorted(records(noised), key=lambda r: -abs(r["mean"]))[:3]
    named = ", ".join(f"{r['label']} {r['mean']:.2f}" for r in top)
    return Section(
        "heads", "Which head: one by one, at the last position",
        f"The largest effects under noising: {named}.",
        _figures("heads", results), _FRACTION,
        "Effects spread evenly over all heads.", "", table, (results["denoise"].provenance.certificate,),
    )  # fmt: skip


def head_sets_section(results: Mapping[Direction, HeadSetPatching]) -> Section:
    """Classes patched together."""
    table = pd.concat([r.to_summary() for r in results.values()], ignore_index=True)
    parts = [f"{r['set']} {r['direction'][:-1]}ed {r['mean']:.2f}" for r in records(table)]
    return Section(
        "head-sets", "Heads together: classes patched at their own results",
        "Fraction recovered: " + "; ".join(parts) + ".",
        _figures("head-sets", results),
        _FRACTION + " Beside each set: random sets of as many heads, its own excluded (mean).",
        "Random sets of the same size that do as much.", PUBLISHED["head-sets"], table,
        ("The classes come from the same prompts they are tested on.", results["noise"].provenance.certificate),
    )  # fmt: skip


def graph_section(nodes: pd.DataFrame, figure: go.Figure) -> Section:
    """The circuit."""
    return Section(
        "graph", "The circuit so far",
        f"{len(nodes)} components with an effect or a class, each with its measured influence on the metric.",
        {"graph": figure},
        "Left to right by layer; size: fraction of the metric moved by noising the component at the last position.",
        "Components whose effect does not survive the sweep-wide test (columns …_p: max-T over all cells of their sweep).",
        "", nodes, ("Also written as circuit.graphml and circuit.json (node-link) beside this page.",),
    )  # fmt: skip


def _figures(stem: str, results: Mapping[Direction, Result]) -> dict[str, go.Figure]:
    return {f"{stem}-{direction}": result.figure() for direction, result in results.items()}


def _tables(results: Mapping[Direction, Result], by: list[str]) -> pd.DataFrame:
    parts = [
        summary(result.to_frame(), by, "fraction").assign(direction=direction) for direction, result in results.items()
    ]
    return pd.concat(parts, ignore_index=True)
