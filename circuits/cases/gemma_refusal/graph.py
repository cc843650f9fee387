"""The circuit as a graph: every block and every head that scores or acts, with its effects; edges into the metric.

An edge says what was measured: the fraction of the metric that noising the component at the last position moves.
Influence between components is not measured here, so no such edge is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import networkx as nx
import pandas as pd
import plotly.graph_objects as go

from circuits.cases.gemma_refusal.setting import Chapter, Missing
from circuits.draw import network
from circuits.engine.sweep import Direction
from circuits.frames import records, sweep_summary
from circuits.graph import component_graph, export
from circuits.measure.attention import HeadClasses
from circuits.measure.blocks import BlockPatching
from circuits.measure.heads import HeadPatching
from circuits.measure.writes import Components
from circuits.report import Section
from circuits.report.circuit import write_page
from circuits.result import Provenance
from circuits.sites import Site

DRAWN: Final = 0.02
"""Heads without a class whose effect is smaller than this are left out of the graph."""
_EDGE: Final = 0.05
"""Share of the metric from which an edge is drawn; the files have all."""


def tell(
    blocks: Mapping[Direction, BlockPatching], heads: Mapping[Direction, HeadPatching], classes: HeadClasses,
    written: Components | Missing, out: Path,
) -> Chapter:  # fmt: skip
    """Write the graph to `out` and show it."""
    nodes = node_frame(blocks, heads, classes, written)
    provenance = heads["noise"].provenance
    graph = build(nodes, provenance)
    for suffix in ("graphml", "json"):
        export(graph, out / f"circuit.{suffix}")
    write_page(graph, out / "circuit.html", title=f"The circuit so far in {provenance.model}", size="noise_last")
    survive = int((nodes["noise_last_p"] <= 0.05).sum())
    return Chapter([
        Section(
            "graph", "The circuit so far",
            f"{len(nodes)} components with an effect or a class, each with its measured influence on the metric; {survive} of "
            "them survive the test over their sweep when noised at the last position.",
            {"graph": _drawing(nodes, provenance.caption)},
            "Left to right by layer; size: fraction of the metric moved by noising the component at the last position.",
            "Components whose effect does not survive the sweep-wide test (columns …_p: max-T over all cells of their sweep).",
            "", nodes, files=("circuit.html", "circuit.graphml", "circuit.json"),
        )
    ])  # fmt: skip


def node_frame(
    blocks: Mapping[Direction, BlockPatching], heads: Mapping[Direction, HeadPatching], classes: HeadClasses,
    written: Components | Missing,
) -> pd.DataFrame:  # fmt: skip
    """One row per node: effects (denoise, noise; at last and subject), intervals, class, p-values, what it writes."""
    return pd.concat([_blocks(blocks, written), _heads(heads, classes)], ignore_index=True)


def _blocks(blocks: Mapping[Direction, BlockPatching], written: Components | Missing) -> pd.DataFrame:
    rows: dict[str, dict[str, Any]] = {}
    for direction, result in blocks.items():
        frame = result.to_frame()
        for role in ("last", "subject"):
            at = frame[(frame["pos"] == -1) if role == "last" else (frame["role"] == "subject")]
            for r in records(sweep_summary(at, ["kind", "layer"], clusters=result.provenance.clusters or None)):
                label = Site(r["kind"], int(r["layer"])).label
                rows.setdefault(label, {"id": label})
                rows[label] |= {f"{direction}_{role}": r["mean"]} | {
                    f"{direction}_{role}_{name}": r[name] for name in ("low", "high", "p")
                }
    if not isinstance(written, Missing):
        for r in records(written.written_summary()):
            rows[Site(r["kind"], int(r["layer"])).label]["writes"] = r["mean"]
    return pd.DataFrame(list(rows.values()))


def _heads(heads: Mapping[Direction, HeadPatching], classes: HeadClasses) -> pd.DataFrame:
    table = classes.to_summary()[["label", "klass", "direct", "diagonal", "BOS"]].rename(columns={"label": "id"})
    for direction, result in heads.items():
        effects = result.to_summary()[["label", "mean", "low", "high", "p"]]
        named = {"label": "id", "mean": f"{direction}_last"}
        named |= {name: f"{direction}_last_{name}" for name in ("low", "high", "p")}
        table = table.merge(effects.rename(columns=named), on="id", how="right")
    acts = table[["denoise_last", "noise_last"]].abs().max(axis=1) >= DRAWN
    return table[acts | table["klass"].isin(["direct", "diagonal"])]


def build(nodes: pd.DataFrame, provenance: Provenance) -> nx.DiGraph[str]:
    """Nodes as given, the metric, and one edge from each to the metric."""
    metric = pd.DataFrame([{"id": "metric", "label": provenance.metric}])
    edges = pd.DataFrame({
        "source": nodes["id"], "target": "metric", "kind": "writes", "effect": nodes["noise_last"],
        "low": nodes["noise_last_low"], "high": nodes["noise_last_high"], "p": nodes["noise_last_p"],
    })  # fmt: skip
    attributes: dict[str, str | int | float | bool] = {
        "model": provenance.model, "model_hash": provenance.model_hash, "pairs": provenance.pairs,
        "metric": provenance.metric, "dtype": provenance.dtype,
        "effect": "fraction of the metric moved by noising the component at the last position, mean over pairs",
        "ablation": "interchange with the other prompt of the pair",
    }  # fmt: skip
    return component_graph(pd.concat([nodes, metric], ignore_index=True), edges.dropna(subset="effect"), attributes)


def _drawing(nodes: pd.DataFrame, caption: str) -> go.Figure:
    shown = nodes.assign(
        label=nodes["id"],
        column=nodes["id"].str.extract(r"^L(\d+)")[0].astype(int),
        row=nodes["id"].str.extract(r"\.([A-Z]+)")[0].map({"H": "heads", "ATTN": "attention", "MLP": "MLPs"}),
        effect=nodes["noise_last"].abs(),
    )
    shown["klass"] = shown["klass"].fillna(shown["row"])
    last = int(shown["column"].max()) + 1
    metric = {"id": "metric", "label": "metric", "column": last, "row": "attention", "effect": 1.0, "klass": "metric"}
    edges = pd.DataFrame({"source": nodes["id"], "target": "metric", "weight": nodes["noise_last"]})
    return network(
        pd.concat([shown, pd.DataFrame([metric])], ignore_index=True), edges[edges["weight"].abs() >= _EDGE],
        title="Components and their effect on the metric (noised, last position)", caption=caption,
    )  # fmt: skip
