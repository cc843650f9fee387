"""What is told of edges: what the screen found and missed, the largest of them, and the circuit that they make."""

from __future__ import annotations

from typing import Final

import pandas as pd
import plotly.graph_objects as go

from circuits.case.condition import minus
from circuits.case.wording import number, told
from circuits.cases.gemma_refusal.chapters.connections import FAITHFUL, SAMPLE, TOP, Found
from circuits.cases.gemma_refusal.rules import connections as rules
from circuits.cases.gemma_refusal.setting import Chapter, Missing
from circuits.draw import lines
from circuits.frames import records
from circuits.measure.circuit import Faithfulness
from circuits.report import Section
from circuits.stats import ALPHA

TITLES: Final = {
    "edges": "Which connections: edges screened and measured",
    "connections": "How few connections carry it",
}


def tell(found: Found | Missing) -> Chapter:
    """Both sections and the verdict."""
    if isinstance(found, Missing):
        parts = [found.section(anchor, title) for anchor, title in TITLES.items()]
        return Chapter(parts, [rules.unmeasured(found.reason)])
    if isinstance(found.faithful, Missing):
        part = found.faithful.section("connections", TITLES["connections"])
        return Chapter([_edges(found), part], [rules.unmeasured(found.faithful.reason)])
    if isinstance(found.circuit, Missing):
        largest = records(_circuits(found.faithful).sort_values("n_edges", kind="stable"))[-1]
        ruled = rules.none_faithful(largest["n_edges"], found.faithful.n_all, minus(told(_mean(largest))))
        return Chapter([_edges(found), _connections(found, found.faithful, f"{ruled.numbers}.")], [ruled])
    size = next(name for name, circuit in found.circuits.items() if circuit is found.circuit)
    row, rest = (_row(found.faithful, size, part) for part in ("circuit", "complement"))
    share, elsewhere = len(found.circuit) / found.circuit.n_all, None
    if isinstance(found.held_out, Missing):
        ruled = rules.sparse(size, None, _limits(rest), share, missing=found.held_out.reason)
    else:
        elsewhere = _row(found.held_out, size, "circuit")
        ruled = rules.sparse(size, _limits(elsewhere), _limits(_row(found.held_out, size, "complement")), share)
    claim = (
        f"Of the circuits run, the smallest that is surely {FAITHFUL:g} faithful has {len(found.circuit)} of "
        f"{found.circuit.n_all} edges (the {size}): {told(_mean(row))} with all others cut; "
        f"all others without them, {told(_mean(rest))}"
    )
    if elsewhere is not None:
        claim += f"; as many chosen on half of the templates are {told(_mean(elsewhere))} faithful on the other half"
    return Chapter([_edges(found), _connections(found, found.faithful, f"{claim}.")], [ruled])


def _edges(found: Found) -> Section:
    checked, paths = found.verified, found.paths
    table = paths.to_summary().sort_values("mean", key=lambda c: -c.abs(), kind="stable")
    top, estimates = records(table)[0], found.estimates
    shown = table.assign(
        estimate=[estimates[f"{a} → {b}"] for a, b in zip(table["sender"], table["receiver"], strict=True)]
    )
    survive = f"{int(table['survives'].sum())} of them survive the test over all of these"
    if (table["least_p"] > ALPHA).all():
        survive = (
            f"no test can tell them from zero (so few independent pairs: p is at least {table['least_p'].min():.2g})"
        )
    missed, size = checked.largest_missed
    gap = (found.screen.source - found.screen.base).double().abs().mean().item()
    claim = (
        f"Of {len(found.screen.names)} edges the {checked.n_top} with the largest estimates were measured exactly, and "
        f"{survive}; the largest is {top['sender']} → {top['receiver']}, {told(top)} of the gap"
    )
    rest = (
        f"Of the other edges {len(checked.names) - checked.n_top} were drawn at random and measured: the largest "
        f"among them is {missed}, whose effect has a mean size of {number(size / gap)} of the mean gap."
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
                f"{found.screen.backward_passes} backward passes of all prompts); in the table as shares of the mean gap. "
                f"Against exact effects, where large is at least {number(checked.threshold)} of the metric: {checked.verdict}."
            ),
            rest,
            f"Measured: the {TOP} largest and {SAMPLE} of the others at most. {paths.provenance.certificate}.",
        ),
    )  # fmt: skip


def _connections(found: Found, faithful: Faithfulness, claim: str) -> Section:
    figures = {"connections": _figure(faithful)}
    notes = ["All other edges are cut: their receivers read what the senders add in the corrupt run."]
    if not isinstance(found.circuit, Missing):
        notes[0] = f"The circuit: {found.circuit!r}. {notes[0]}"
    notes.append(f"{faithful.provenance.certificate}.")
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
    table = faithful.to_summary().assign(pairs="all")
    if isinstance(found.held_out, Missing):
        notes.append(f"No circuit was run on templates it was not chosen on: {found.held_out.reason}.")
    else:
        table = pd.concat([table, found.held_out.to_summary().assign(pairs="held out")], ignore_index=True)
        notes.append(
            "Held out: which edges was decided on half of the templates; how many, and by what ranking, on all of them."
        )
    columns = ["circuit", "pairs", "part", "n_edges", "faithfulness", "low", "high", "mean_of_pairs", "n", "undefined"]
    return Section(
        "connections", TITLES["connections"], minus(claim), figures,
        "Faithfulness: the metric with the other edges cut, from 0 (every edge cut, the corrupt run) to 1 (the clean run), "
        "as a ratio of means over pairs. Circuits are named by how many edges were asked for; those on no path from the "
        f"embedding to the metric are left out. The circuit is the smallest whose interval lies above {FAITHFUL:g}. What both "
        "prompts of a pair share is never cut, for it is the same in both runs.",
        "Shuffled scores that do as well, a complement that does as well, or a circuit that fails on templates it was not "
        "chosen on.",
        "", table[columns], tuple(map(minus, notes)),
    )  # fmt: skip


def _figure(faithful: Faithfulness) -> go.Figure:
    """Faithfulness over the number of edges asked for, by what they were ranked by."""
    table = _circuits(faithful).reset_index(drop=True)
    asked = table["circuit"].str.split(" by ", expand=True)
    return lines(
        table.assign(asked=asked[0].astype(int), ranking=asked[1]), x="asked", y="faithfulness", color="ranking",
        low="low", high="high", reference={"whole model": 1.0, "enough": FAITHFUL},
        title=f"Faithfulness of the largest of {faithful.n_all} edges, {faithful.ablation} ablation of the others",
        x_title="edges asked for", y_title="share of the gap (ratio of means)", caption=faithful.provenance.caption,
    )  # fmt: skip


def _circuits(found: Faithfulness) -> pd.DataFrame:
    """The circuits' rows without those of their complements."""
    table = found.to_summary()
    return table[table["part"] == "circuit"]


def _row(found: Faithfulness, size: str, part: str) -> dict[str, object]:
    """The same circuits, by name, are run on all pairs and on those held out."""
    table = found.to_summary()
    return records(table[(table["circuit"] == size) & (table["part"] == part)])[0]


def _mean(row: dict[str, object]) -> dict[str, object]:
    return row | {"mean": row["faithfulness"]}


def _limits(row: dict[str, object]) -> tuple[float, float, float]:
    return float(str(row["faithfulness"])), float(str(row["low"])), float(str(row["high"]))
