"""What is told of edges: what the screen found and missed, the largest of them, and the circuit that they make."""

from __future__ import annotations

from typing import Final

import pandas as pd
import plotly.graph_objects as go

from circuits.cases.gemma_refusal.chapters.connections import FAITHFUL, SAMPLE, TOP, Found
from circuits.cases.gemma_refusal.chapters.wording import number, told
from circuits.cases.gemma_refusal.rules import connections as rules
from circuits.cases.gemma_refusal.rules.condition import minus
from circuits.cases.gemma_refusal.setting import Chapter, Missing
from circuits.draw import lines
from circuits.frames import records
from circuits.measure.circuit import Circuit, Faithfulness
from circuits.report import Section

TITLES: Final = {
    "edges": "Which connections: edges screened and measured",
    "connections": "How few connections carry it",
}


def tell(found: Found | Missing) -> Chapter:
    """Both sections and the verdict."""
    if isinstance(found, Missing):
        parts = [found.section(anchor, title) for anchor, title in TITLES.items()]
        return Chapter(parts, [rules.unmeasured(found.reason)])
    missing = next((f for f in (found.circuit, found.faithful) if isinstance(f, Missing)), None)
    if isinstance(found.circuit, Missing) or isinstance(found.faithful, Missing):
        reason = missing.reason if missing is not None else ""
        part = Missing(reason).section("connections", TITLES["connections"])
        return Chapter([_edges(found), part], [rules.unmeasured(reason)])
    size, row, rest = _chosen(found.faithful, found.circuit)
    elsewhere = None if isinstance(found.held_out, Missing) else _row(found.held_out, size, "circuit")
    of = None if elsewhere is None else _limits(elsewhere)
    ruled = rules.sparse(size, of, _limits(rest), len(found.circuit) / found.circuit.n_all)
    return Chapter([_edges(found), _connections(found, found.circuit, found.faithful, row, rest, elsewhere)], [ruled])


def _edges(found: Found) -> Section:
    checked, paths = found.verified, found.paths
    table = paths.to_summary().sort_values("mean", key=lambda c: -c.abs(), kind="stable")
    top = records(table)[0]
    score = dict(zip(found.screen.names, found.screen.score.double().mean(0).tolist(), strict=True))
    shown = table.assign(
        estimate=[score[f"{a} → {b}"] for a, b in zip(table["sender"], table["receiver"], strict=True)]
    )
    survive = int(table["survives"].sum())
    missed, size = checked.largest_missed
    gap = (found.screen.source - found.screen.base).double().abs().mean().item()
    claim = (
        f"Of {len(found.screen.names)} edges the {checked.n_top} with the largest estimates were measured exactly, and "
        f"{survive} of them survive the test over all of these; the largest is {top['sender']} → {top['receiver']}, "
        f"{told(top)} of the gap"
    )
    rest = (
        f"Of the other edges {len(checked.names) - checked.n_top} were drawn at random and measured: the largest effect "
        f"among them is {missed}'s, {number(size / gap)} of the gap."
        if missed else "There are no other edges."
    )  # fmt: skip
    columns = ["sender", "kind", "receiver", "mean", "low", "high", "p", "survives", "estimate"]
    return Section(
        "edges", TITLES["edges"], minus(f"{claim}."),
        {"edges": paths.figure(), "edges-screen": checked.figure()},
        "An edge is what one receiver alone (a head's queries, a key-value head's keys or values, an MLP, the final norm) "
        "reads of what one sender adds to the residual stream. Its effect: that receiver, at every position, is given what "
        "the sender adds in the corrupt run; everything else is as in the clean run up to there and runs on freely after it. "
        "Fractions of the gap between the two runs.",
        "Estimates that rank edges at random (the second figure), or edges no larger than those of the random sample.",
        "", shown[columns].reset_index(drop=True),
        (
            (
                f"Estimates: EAP-IG on inputs, {found.screen.steps} steps ({found.screen.forward_passes} forward and "
                f"{found.screen.backward_passes} backward passes of all prompts), in units of the metric. "
                f"{checked.verdict[0].upper()}{checked.verdict[1:]}."
            ),
            rest,
            f"Measured: the {TOP} largest and {SAMPLE} of the others at most. {paths.provenance.certificate}.",
        ),
    )  # fmt: skip


def _connections(
    found: Found, circuit: Circuit, faithful: Faithfulness, row: dict[str, object], rest: dict[str, object],
    elsewhere: dict[str, object] | None,
) -> Section:  # fmt: skip
    figures = {"connections": _figure(faithful)}
    notes = [
        f"The circuit: {circuit!r}. All other edges are cut: their receivers read what the senders add in the corrupt run.",
        f"{faithful.provenance.certificate}.",
    ]
    if not isinstance(found.curve, Missing):
        figures["connections-curve"] = found.curve.figure()
        areas = {r["area"]: r for r in records(found.curve.areas())}
        said = ", ".join(
            f"{name} {told(areas[name] | {'mean': areas[name]['value']})} (shuffled scores {number(areas[name]['random'])})"
            for name in ("CPR", "CMD")
        )
        notes.append(f"By the screen's own estimates, at MIB's sizes: {said}.")
    if not isinstance(found.minimal, Missing):
        figures["connections-minimal"] = found.minimal.figure()
    claim = (
        f"The smallest circuit that is surely {FAITHFUL:g} faithful has {len(circuit)} of {circuit.n_all} edges (the "
        f"{row['circuit']}): {told(_mean(row))} with all others cut; "
        f"all others without them, {told(_mean(rest))}"
    )
    if elsewhere is not None:
        claim += f"; as many chosen on half of the templates are {told(_mean(elsewhere))} faithful on the other half"
    table = faithful.to_summary().assign(pairs="all")
    if not isinstance(found.held_out, Missing):
        table = pd.concat([table, found.held_out.to_summary().assign(pairs="held out")], ignore_index=True)
    columns = ["circuit", "pairs", "part", "n_edges", "faithfulness", "low", "high", "mean_of_pairs", "n", "undefined"]
    return Section(
        "connections", TITLES["connections"], minus(f"{claim}."), figures,
        "Faithfulness: the metric with the other edges cut, from 0 (every edge cut, the corrupt run) to 1 (the clean run), "
        "as a ratio of means over pairs. Circuits are named by how many edges were asked for; those on no path from the "
        f"embedding to the metric are left out. The circuit is the smallest whose interval lies above {FAITHFUL:g}.",
        "Shuffled scores that do as well, a complement that does as well, or a circuit that fails on templates it was not "
        "chosen on.",
        "", table[columns], tuple(notes),
    )  # fmt: skip


def _figure(faithful: Faithfulness) -> go.Figure:
    """Faithfulness over the number of edges asked for, by what they were ranked by."""
    table = faithful.to_summary()
    table = table[table["part"] == "circuit"].reset_index(drop=True)
    asked = table["circuit"].str.split(" by ", expand=True)
    return lines(
        table.assign(asked=asked[0].astype(int), ranking=asked[1]), x="asked", y="faithfulness", color="ranking",
        low="low", high="high", reference={"whole model": 1.0, "enough": FAITHFUL},
        title=f"Faithfulness of the largest of {faithful.n_all} edges, {faithful.ablation} ablation of the others",
        x_title="edges asked for", y_title="share of the gap (ratio of means)", caption=faithful.provenance.caption,
    )  # fmt: skip


def _chosen(
    faithful: Faithfulness, circuit: Circuit
) -> tuple[str, dict[str, object], dict[str, object]]:
    """The chosen circuit's size as it was asked for, its row and its complement's."""
    size = next(name for name, said in zip(faithful.names, faithful.said, strict=True) if said == repr(circuit))
    return size, _row(faithful, size, "circuit") or {}, _row(faithful, size, "complement") or {}


def _row(found: Faithfulness, size: str, part: str) -> dict[str, object] | None:
    """None where no circuit of that size was run."""
    table = found.to_summary()
    here = records(table[(table["circuit"] == size) & (table["part"] == part)])
    return here[0] if here else None


def _mean(row: dict[str, object]) -> dict[str, object]:
    return row | {"mean": row["faithfulness"]}


def _limits(row: dict[str, object]) -> tuple[float, float, float]:
    return float(str(row["faithfulness"])), float(str(row["low"])), float(str(row["high"]))
