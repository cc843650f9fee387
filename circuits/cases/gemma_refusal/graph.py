"""The circuit as a graph: components with their effects and classes, and the connections that were measured.

An edge is a measured connection (`chapters.connections`): the fraction of the gap that moves when the receiver alone reads
what the sender gives in the corrupt run. Where connections could not be measured, edges run from every component to the
metric and say what noising it at the last position moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuits.cases.gemma_refusal.chapters.connections import Found
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.draw import network
from circuits.engine.edges import Edge
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
from circuits.sites import Site, parse
from circuits.stats import ALPHA

DRAWN: Final = 0.02
"""Heads without a class whose effect is smaller than this are left out of the graph, unless an edge needs them."""
_EDGES_DRAWN: Final = 60
"""Edges in the picture; the page and the files have all."""
_FILES: Final = ("graphml", "gexf", "cyjs", "json", "dot")


def tell(
    s: Setting, blocks: Mapping[Direction, BlockPatching], heads: Mapping[Direction, HeadPatching], classes: HeadClasses,
    written: Components | Missing, connections: Found | Missing, out: Path,
) -> Chapter:  # fmt: skip
    """Write the graph to `out` and show it."""
    nodes = node_frame(blocks, heads, classes, written)
    provenance = heads["noise"].provenance
    edges = single_edges(nodes) if isinstance(connections, Missing) else edge_frame(connections)
    nodes = nodes if isinstance(connections, Missing) else _with_ends(nodes, _heads(heads, classes, every=True), connections)
    graph = build(nodes, edges, s, provenance)
    for suffix in _FILES:
        export(graph, out / f"circuit.{suffix}")
    curve = None if isinstance(connections, Missing) else _curve(connections)
    write_page(
        graph, out / "circuit.html", curve=curve, title=f"The circuit in {provenance.model}", size="noise_last"
    )
    survive = int((nodes["noise_last_p"] <= ALPHA).sum())
    edge = "fraction of the gap moved through this connection alone" if curve is not None else "as the component's size"
    claim = (
        f"{len(nodes)} components with an effect, a class or a connection ({survive} survive the test over their sweep when "
        f"noised at the last position) and {len(edges)} measured connections."
    )
    return Chapter([
        Section(
            "graph", "The circuit", claim, {"graph": _drawing(nodes, graph, provenance.caption)},
            "Left to right by layer; size: fraction of the metric moved by noising the component at the last position. Edges: "
            f"{edge}; of more than {_EDGES_DRAWN} the largest are drawn. circuit.html has all: prune them, search, isolate.",
            "Components whose effect does not survive the sweep-wide test (columns …_p: max-T over all cells of their sweep).",
            "", nodes, files=("circuit.html", *(f"circuit.{suffix}" for suffix in _FILES)),
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


def _heads(
    heads: Mapping[Direction, HeadPatching], classes: HeadClasses, *, every: bool = False
) -> pd.DataFrame:
    table = classes.to_summary()[["label", "klass", "direct", "diagonal", "BOS"]].rename(columns={"label": "id"})
    for direction, result in heads.items():
        effects = result.to_summary()[["label", "mean", "low", "high", "p"]]
        named = {"label": "id", "mean": f"{direction}_last"}
        named |= {name: f"{direction}_last_{name}" for name in ("low", "high", "p")}
        table = table.merge(effects.rename(columns=named), on="id", how="right")
    if every:
        return table
    acts = table[["denoise_last", "noise_last"]].abs().max(axis=1) >= DRAWN
    return table[acts | table["klass"].isin(["direct", "diagonal"])]


def single_edges(nodes: pd.DataFrame) -> pd.DataFrame:
    """One edge from each node to the metric: what noising it at the last position moves."""
    edges = pd.DataFrame({
        "source": nodes["id"], "target": "metric", "kind": "writes", "effect": nodes["noise_last"],
        "low": nodes["noise_last_low"], "high": nodes["noise_last_high"], "p": nodes["noise_last_p"],
    })  # fmt: skip
    return edges.dropna(subset="effect")


def edge_frame(found: Found) -> pd.DataFrame:
    """The connections on a way from the embedding to the metric: exact effect, interval, p, the screen's estimate."""
    table = found.paths.to_summary()
    kept, circuit = found.connected.edges, set[Edge]() if isinstance(found.circuit, Missing) else found.circuit.edges
    score = dict(zip(found.screen.names, found.screen.score.double().mean(0).tolist(), strict=True))
    rows = [
        {
            "source": r["sender"], "target": r["receiver"], "kind": r["kind"], "effect": r["mean"], "low": r["low"],
            "high": r["high"], "p": r["p"], "estimate": score[edge.label], "in_circuit": edge in circuit,
        }
        for r in records(table) if (edge := Edge(r["sender"], r["receiver"])) in kept
    ]  # fmt: skip
    columns = ["source", "target", "kind", "effect", "low", "high", "p", "estimate", "in_circuit"]
    return pd.DataFrame(rows, columns=columns)


def _with_ends(nodes: pd.DataFrame, heads: pd.DataFrame, found: Found) -> pd.DataFrame:
    """The nodes, and those that edges need besides; which of them the circuit has."""
    edges = found.connected.edges
    queries = {f"L{site.layer}.H{site.index}" for e in edges if e.kind == "q" and (site := parse(e.receiver))}
    needed = {e.sender for e in edges} | {e.receiver for e in edges if e.kind == "mlp"} | queries
    lacking = sorted(needed - set(nodes["id"]))
    known = heads[heads["id"].isin(lacking)]
    others = pd.DataFrame([
        {"id": name} | _post_norm(name) for name in lacking if name not in set(known["id"])
    ])  # fmt: skip
    every = pd.concat([nodes, known, others], ignore_index=True)
    held = set() if isinstance(found.circuit, Missing) else {"embed", *found.circuit.nodes}
    return every.assign(in_circuit=every["id"].isin(held))


def _post_norm(name: str) -> dict[str, Any]:
    """What the graph has to be told of a post-norm's own change, which no id of a component says."""
    layer, dot, part = name.partition(".")
    return {"kind": "error", "site": "attn_out", "layer": int(layer[1:])} if dot and part == "post-norm" else {}


def build(nodes: pd.DataFrame, edges: pd.DataFrame, s: Setting, provenance: Provenance) -> nx.DiGraph[str]:
    """Nodes and edges as given, and the metric."""
    metric = pd.DataFrame([{"id": "metric", "label": provenance.metric}])
    shape = s.model.shape
    attributes: dict[str, str | int | float | bool] = {
        "model": provenance.model, "model_hash": provenance.model_hash, "pairs": provenance.pairs,
        "metric": provenance.metric, "dtype": provenance.dtype, "n_layers": shape.n_layers, "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads, "d_model": shape.d_model,
        "parallel_attn_mlp": "resid_mid" in s.model.parts.lacking,
        "effect": "of an edge: fraction of the gap moved when the receiver alone reads what the sender gives in the corrupt "
        "run (`writes`: when the sender is noised at the last position), mean over pairs",
        "ablation": "interchange with the other prompt of the pair",
    }  # fmt: skip
    return component_graph(pd.concat([nodes, metric], ignore_index=True), edges, attributes)


def _curve(found: Found) -> pd.DataFrame | None:
    """Faithfulness of the connections whose |effect| is at least a threshold; None where it was not measured."""
    if isinstance(found.faithful, Missing):
        return None
    sizes = np.sort(found.paths.to_summary()["mean"].abs().to_numpy())[::-1]
    table = found.faithful.to_summary()
    asked = table["circuit"].str.removesuffix(" by effect")
    table = table[(table["part"] == "circuit") & asked.str.isdigit()]
    thresholds = [float(sizes[int(n) - 1]) for n in asked[table.index]]
    return table[["faithfulness", "low", "high"]].assign(threshold=thresholds)


def _drawing(nodes: pd.DataFrame, graph: nx.DiGraph[str], caption: str) -> go.Figure:
    """The largest edges between components, by layer; parallel edges as the largest of them."""
    effects: dict[tuple[str, str], float] = {}
    for source, target, values in graph.edges(data=True):
        effect = float(values["effect"])
        effects[source, target] = max(effects.get((source, target), 0.0), effect, key=abs)
    largest = sorted(effects, key=lambda ends: -abs(effects[ends]))[:_EDGES_DRAWN]
    shown = nodes[nodes["id"] != "embed"].assign(label=lambda t: t["id"], effect=lambda t: t["noise_last"].abs().fillna(0.0))
    shown["column"] = shown["id"].str.extract(r"^L(\d+)")[0].astype(int)
    shown["row"] = shown["id"].str.extract(r"\.([A-Z]+)")[0].map({"H": "heads", "ATTN": "attention", "MLP": "MLPs"})
    shown["row"] = shown["row"].fillna("attention")
    shown["klass"] = shown["klass"].where(shown["klass"].notna() & (shown["klass"] != ""), shown["row"])
    ends: list[dict[str, Any]] = [
        {"id": name, "label": name, "column": column, "row": "MLPs", "effect": 1.0, "klass": name}
        for name, column in (("embed", -1), ("metric", int(shown["column"].max()) + 1)) if name in graph
    ]  # fmt: skip
    edges = pd.DataFrame([{"source": a, "target": b, "weight": effects[a, b]} for a, b in largest])
    return network(
        pd.concat([shown, pd.DataFrame(ends)], ignore_index=True), edges,
        title="Components, their effect on the metric, and the largest connections", caption=caption,
    )  # fmt: skip
