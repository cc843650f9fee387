"""The circuit as a graph: components with their effects and classes, and the connections that were measured.

An edge is a measured connection (`chapters.connections`): the fraction of the gap that moves when the receiver alone reads
what the sender gives in the corrupt run. One into the keys or values of a key-value head stands on each of its query heads
in the graph, with the one effect. Where connections could not be measured, edges run from every component to the metric and
say what noising it at the last position moves.
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
from circuits.model import Model
from circuits.report import Section
from circuits.report.circuit import write_page
from circuits.result import Provenance
from circuits.sites import Site, parse
from circuits.stats import ALPHA

DRAWN: Final = 0.02
"""Heads without a class whose effect is smaller than this are left out of the graph, unless an edge needs them."""
_EDGES_DRAWN: Final = 60
"""Connections in the picture; the page and the files have all."""
_ROWS: Final = {"head": "heads", "attn": "attention", "norm": "post-norms", "mlp": "MLPs"}
"""Kind of node -> its row in the picture, top to bottom."""
_CONNECTION: Final = "fraction of the gap moved when the receiver alone reads what the sender gives in the corrupt run"
_SINGLE: Final = "fraction of the gap moved when its sender is noised at the last position"
_FILES: Final = ("graphml", "gexf", "cyjs", "json", "dot")


def tell(
    s: Setting, blocks: Mapping[Direction, BlockPatching], heads: Mapping[Direction, HeadPatching], classes: HeadClasses,
    written: Components | Missing, connections: Found | Missing, out: Path,
) -> Chapter:  # fmt: skip
    """Write the graph to `out` and show it."""
    nodes = node_frame(blocks, heads, classes, written)
    provenance = heads["noise"].provenance
    if isinstance(connections, Missing):
        edges, curve, meant = single_edges(nodes), None, _SINGLE
        there = f"{len(edges)} edges to the metric that say it (connections were not measured)"
    else:
        edges, curve, meant = edge_frame(connections), _curve(connections), _CONNECTION
        nodes = _with_ends(nodes, _heads(heads, classes, every=True), connections, s.model)
        there = f"{len(edges)} measured connections on a way from the embedding to the metric"
    graph = build(nodes, edges, s, provenance, meant)
    for suffix in _FILES:
        export(graph, out / f"circuit.{suffix}")
    write_page(graph, out / "circuit.html", curve=curve, title=f"The circuit in {provenance.model}", size="noise_last")
    survive = int((nodes["noise_last_p"] <= ALPHA).sum())
    claim = (
        f"{len(nodes)} components with an effect, a class or a connection ({survive} survive the test over their sweep when "
        f"noised at the last position) and {there}."
    )
    return Chapter([
        Section(
            "graph", "The circuit", claim, {"graph": _drawing(nodes, graph, provenance.caption)},
            "Left to right by layer; size: fraction of the gap moved by noising the component at the last position. Edges: "
            f"{meant}; of more than {_EDGES_DRAWN} the largest are drawn, with the components that they join. One into shared "
            "keys or values is drawn to those of its query heads that send another. circuit.html has all: prune them, search, "
            "isolate.",
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


def _heads(heads: Mapping[Direction, HeadPatching], classes: HeadClasses, *, every: bool = False) -> pd.DataFrame:
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
    """The connections on a way from the embedding to the metric: exact effect, interval, p, the screen's estimate.

    Whether the circuit has one is left out where none was found.
    """
    table = found.paths.to_summary()
    kept, estimates = found.connected.edges, found.estimates
    circuit = None if isinstance(found.circuit, Missing) else found.circuit.edges
    rows = [
        {
            "source": r["sender"], "target": r["receiver"], "kind": r["kind"], "effect": r["mean"], "low": r["low"],
            "high": r["high"], "p": r["p"], "estimate": estimates[edge.label],
            "in_circuit": None if circuit is None else edge in circuit,
        }
        for r in records(table) if (edge := Edge(r["sender"], r["receiver"])) in kept
    ]  # fmt: skip
    columns = ["source", "target", "kind", "effect", "low", "high", "p", "estimate", "in_circuit"]
    return pd.DataFrame(rows, columns=columns)


def _with_ends(nodes: pd.DataFrame, heads: pd.DataFrame, found: Found, model: Model) -> pd.DataFrame:
    """The nodes, and those that edges need besides; which of them the circuit has."""
    edges, size = found.connected.edges, model.shape.n_heads // model.shape.n_kv_heads
    needed = {e.sender for e in edges} | {e.receiver for e in edges if e.kind == "mlp"}
    read = [(e.kind, parse(e.receiver)) for e in edges if e.kind in {"q", "k", "v"}]
    needed |= {f"L{site.layer}.H{site.index}" for kind, site in read if kind == "q"}
    for kind, site in read:
        first = (site.index or 0) * size
        group = {f"L{site.layer}.H{head}" for head in range(first, first + size)}
        if kind != "q" and group.isdisjoint(needed | set(nodes["id"])):  # a post-norm alone hears of what they read
            needed |= group
    lacking = sorted(needed - set(nodes["id"]))
    known = heads[heads["id"].isin(lacking)]
    others = pd.DataFrame({"id": [name for name in lacking if name not in set(known["id"])]})
    every = pd.concat([nodes, known, others], ignore_index=True)
    if isinstance(found.circuit, Missing):
        return every
    return every.assign(in_circuit=every["id"].isin({"embed", *(e.sender for e in found.circuit.edges)}))


def build(nodes: pd.DataFrame, edges: pd.DataFrame, s: Setting, provenance: Provenance, meant: str) -> nx.DiGraph[str]:
    """Nodes and edges as given, and the metric; `meant` says what an edge's effect is."""
    metric = pd.DataFrame([{"id": "metric", "label": provenance.metric}])
    metric = metric.assign(in_circuit=True) if "in_circuit" in nodes else metric
    shape = s.model.shape
    attributes: dict[str, str | int | float | bool] = {
        "model": provenance.model, "model_hash": provenance.model_hash, "pairs": provenance.pairs,
        "metric": provenance.metric, "dtype": provenance.dtype, "n_layers": shape.n_layers, "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads, "d_model": shape.d_model,
        "parallel_attn_mlp": "resid_mid" in s.model.parts.lacking,
        "effect": f"of an edge: {meant}, mean over pairs",
        "ablation": "interchange with the other prompt of the pair",
    }  # fmt: skip
    graph = component_graph(pd.concat([nodes, metric], ignore_index=True), edges, attributes)
    _only_heads_that_write(graph)
    return graph


def _only_heads_that_write(graph: nx.DiGraph[str]) -> None:
    """Of the query heads that share an edge of the circuit, only those whose writes it keeps have it, if there are such."""
    shared: dict[tuple[Any, ...], list[tuple[bool, dict[str, Any]]]] = {}
    for source, head, values in graph.edges(data=True):
        if "kv_head" in values and values.get("in_circuit"):
            group = (source, values["kind"], graph.nodes[head]["layer"], values["kv_head"])
            shared.setdefault(group, []).append((graph.nodes[head]["in_circuit"], values))
    for copies in shared.values():
        if any(writes for writes, _ in copies):
            for writes, values in copies:
                values["in_circuit"] = writes


def _curve(found: Found) -> pd.DataFrame | None:
    """Faithfulness of the connections whose |effect| is at least a threshold; None where that says nothing of them."""
    if isinstance(found.faithful, Missing):
        return None
    effects = found.paths.to_summary()["mean"].abs().to_numpy()
    sizes = np.sort(effects)[::-1]
    table = found.faithful.to_summary()
    asked = table["circuit"].str.removesuffix(" by effect")
    table = table[(table["part"] == "circuit") & asked.str.isdigit()]
    thresholds = [float(sizes[int(n) - 1]) for n in asked[table.index]]
    shown = effects[[Edge(*ends) in found.connected.edges for ends in found.paths.edges]]
    if len({int((shown >= threshold).sum()) for threshold in thresholds}) < 2:
        return None
    limits = (
        ["low", "high"] if np.isfinite(table[["low", "high"]]).all(axis=None) else []
    )  # of few pairs there are none
    return table[["faithfulness", *limits]].assign(threshold=thresholds)


def _drawing(nodes: pd.DataFrame, graph: nx.DiGraph[str], caption: str) -> go.Figure:
    """The largest connections and what they join, by layer; parallel ones as the largest of them."""
    effects: dict[tuple[str, str], float] = {}
    for source, target in _drawn(graph):
        ways = [float(values["effect"]) for values in graph.get_edge_data(source, target).values()]
        effects[source, target] = max(ways, key=abs)
    joined = {name for ends in effects for name in ends} or set(nodes["id"])
    shown = nodes[nodes["id"].isin(joined - {"embed"})]
    shown = shown.assign(label=shown["id"], effect=shown["noise_last"].abs(), column=0, row="attention")
    for place, name in shown["id"].items():
        kind = str(graph.nodes[name]["kind"])
        shown.loc[place, ["column", "row"]] = graph.nodes[name]["layer"], _ROWS[kind]
    shown["klass"] = shown["klass"].where(shown["klass"].notna() & (shown["klass"] != ""), shown["row"])
    middle = "heads" if "heads" in set(shown["row"]) else "MLPs"
    ends: list[dict[str, Any]] = [
        {"id": name, "label": name, "column": column, "row": middle, "effect": float("nan"), "klass": name}
        for name, column in (("embed", -1), ("metric", int(graph.graph["n_layers"]))) if name in joined
    ]  # fmt: skip
    edges = pd.DataFrame([{"source": a, "target": b, "weight": effect} for (a, b), effect in effects.items()])
    return network(
        pd.concat([shown.sort_values("row", key=lambda row: row.map(list(_ROWS.values()).index)), pd.DataFrame(ends)]), edges,
        title="The largest connections, and the effect of what they join on the metric", caption=caption,
    )  # fmt: skip


def _drawn(graph: nx.DiGraph[str]) -> list[tuple[str, str]]:
    """The ends of the largest connections; of the query heads that share one, those that send another of them, or all."""
    measured: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
    sizes: dict[tuple[Any, ...], float] = {}
    for source, target, values in graph.edges(data=True):
        shared = "kv_head" in values
        into = (graph.nodes[target]["layer"], values["kv_head"]) if shared else target
        key = (source, into, values["kind"])
        measured.setdefault(key, []).append((source, target))
        sizes[key] = abs(float(values["effect"]))
    largest = sorted(measured, key=lambda key: -sizes[key])[:_EDGES_DRAWN]
    sending = {source for source, *_ in largest}
    found: dict[tuple[str, str], None] = {}
    for key in largest:
        ends = measured[key]
        found |= dict.fromkeys([both for both in ends if len(ends) == 1 or both[1] in sending] or ends)
    return list(found)
