"""One graph of all that was measured: components as nodes, measured influence as edges.

    nodes = pd.DataFrame({"id": ["L8.H7", "L9.MLP"], "klass": ["direct", ""], "noising": [0.41, 0.12]})
    edges = pd.DataFrame({"source": ["L8.H7"], "target": ["L9.MLP"], "kind": ["feeds"], "effect": [0.2]})
    graph = component_graph(nodes, edges, {"model": "refusal-gemma (not Gemma)"})

1. Every row of `nodes` is a node. Its kind, layer and head are read from its id where the columns do not say
them. 2. Every further column is an attribute; a missing value is left out, never written as zero. 3. Every
row of `edges` is an edge that runs forward through the model: embed, then per block heads and attention,
   then the MLP, then features of the block's output, and the metric last.
4. Nodes and edges are sorted by that order, so equal input in any order of rows gives an equal graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import networkx as nx
import pandas as pd

from circuits.errors import CircuitError, SiteError
from circuits.graph.scalars import Scalar, scalars
from circuits.sites import SiteKind, parse

if TYPE_CHECKING:
    Graph = nx.DiGraph[str]
else:
    Graph = nx.DiGraph  # subscriptable only in its stubs

KINDS: Final[dict[str, int]] = {
    "embed": 0, "residual": 1, "head": 2, "attn": 2, "mlp": 3, "feature": 4, "metric": 5,
}  # fmt: skip
"""Kind of node -> its place within a block, in the order in which the model computes."""
EDGE_KINDS: Final = ("writes", "feeds")
"""`writes`: into the residual stream or the metric; `feeds`: what a component reads of another."""
_SITE_KINDS: Final[dict[SiteKind, str]] = {
    "embed": "embed", "resid_pre": "residual", "z": "head", "attn_out": "attn", "mlp_out": "mlp",
}  # fmt: skip
_OWN: Final = {"nodes": {"id"}, "edges": {"source", "target"}}


def component_graph(
    nodes: pd.DataFrame,
    edges: pd.DataFrame | None = None,
    attributes: Mapping[str, Scalar] | None = None,
) -> Graph:
    """A directed graph with one node per row of `nodes` and one edge per row of `edges`.

    `nodes`: `id`, a site label (`L8.H7`, `L9.MLP`, `embed`), with `@role` after it where a component stands
    at several positions, or `metric`; optional `kind`, `layer`, `head`, `klass`, `position`, and any
    effects. `edges`: `source`, `target`, `kind` (writes, feeds), and any of `effect`, `low`, `high`.
    `attributes` belong to the graph: where its numbers come from, the model's title first of all.

    Raises CircuitError for a missing column, a repeated or unreadable id, a column that contradicts an id,
    an edge that is repeated, runs to an unknown node or backwards, and values that are not scalars.
    """
    _need(nodes, "nodes", "id")
    described = [_node(row, place) for place, row in enumerate(_rows(nodes))]
    places = {name: _place(name, values) for name, values in described}
    if len(places) < len(described):
        names = [name for name, _ in described]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise CircuitError(
            f"repeated nodes: {', '.join(twice)}; write one row per node, or add @position to its id"
        )
    graph: Graph = nx.DiGraph()
    graph.graph.update(scalars(attributes or {}, "graph"))
    graph.add_nodes_from(sorted(described, key=lambda node: places[node[0]]))
    if edges is not None and len(edges):
        _need(edges, "edges", "source", "target", "kind")
        rows = sorted(_rows(edges), key=lambda row: _edge_place(row, places))
        for row in rows:
            _add_edge(graph, row, places)
    return graph


def _need(frame: pd.DataFrame, what: str, *columns: str) -> None:
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise CircuitError(
            f"{what}: no column {', '.join(map(repr, lacking))}; there are {list(frame.columns)}"
        )


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _node(row: dict[str, Any], place: int) -> tuple[str, dict[str, Scalar]]:
    name = row.pop("id")
    if not isinstance(name, str) or not name.strip():
        raise CircuitError(f"nodes: row {place} has the id {name!r}; write a site such as L8.H7, or metric")
    values = scalars(row, f"node {name}")
    for column in ("layer", "head"):  # a column with gaps comes as float
        value = values.get(column)
        if isinstance(value, float) and value.is_integer():
            values[column] = int(value)
    for column, said in _read(name).items():
        if values.setdefault(column, said) != said:
            raise CircuitError(f"node {name}: its {column} is {values[column]!r}, but its id says {said!r}")
    kind = values.get("kind")
    if kind not in KINDS:
        raise CircuitError(
            f"node {name}: kind {kind!r} is none of {', '.join(KINDS)}; give its column `kind`"
        )
    if kind not in {"embed", "metric"} and not isinstance(values.get("layer"), int):
        raise CircuitError(f"node {name}: a {kind} needs its column `layer`")
    first = {key: values.pop(key) for key in ("kind", "layer", "head", "klass", "position") if key in values}
    return name, first | values


def _read(name: str) -> dict[str, Scalar]:
    """What an id says of itself: kind, layer and head, and the position after `@`."""
    label, _, role = name.partition("@")
    said: dict[str, Scalar] = {"position": role} if role else {}
    if label == "metric":
        return said | {"kind": "metric"}
    try:
        site = parse(label)
    except SiteError:
        return said  # a feature or another thing with a name of its own: its columns must say the rest
    if site.kind not in _SITE_KINDS:
        return said
    said["kind"] = _SITE_KINDS[site.kind]
    if site.kind != "embed":
        said["layer"] = site.layer
    return said if site.index is None else said | {"head": site.index}


def _place(name: str, values: Mapping[str, Scalar]) -> tuple[int, int, int, str]:
    """Where a node stands in the model's order: (block, place within it, head, id)."""
    kind = str(values["kind"])
    block = {"embed": -1, "metric": 1 << 30}.get(kind, int(values.get("layer", 0)))
    return block, KINDS[kind], int(values.get("head", -1)), name


def _edge_place(row: Mapping[str, Any], places: Mapping[str, tuple[int, int, int, str]]) -> Any:
    for end in ("source", "target"):
        if row[end] not in places:
            edge = f"edge {row['source']} → {row['target']}"
            raise CircuitError(f"{edge}: its {end} is not among the {len(places)} nodes; add it to `nodes`")
    return places[row["source"]], places[row["target"]]


def _add_edge(graph: Graph, row: dict[str, Any], places: Mapping[str, tuple[int, int, int, str]]) -> None:
    source, target = row.pop("source"), row.pop("target")
    edge = f"edge {source} → {target}"
    if places[source][:2] >= places[target][:2]:
        raise CircuitError(
            f"{edge} runs backwards or within one step; influence runs forward through the model"
        )
    if graph.has_edge(source, target):
        raise CircuitError(f"{edge} is repeated; write one row per edge")
    if row["kind"] not in EDGE_KINDS:
        raise CircuitError(f"{edge}: kind {row['kind']!r} is none of {', '.join(EDGE_KINDS)}")
    graph.add_edge(source, target, **scalars(row, edge))
