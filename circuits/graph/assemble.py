"""Nodes and edges as plain lists become one graph, or an error that names the one at fault.

Frames and files of every format come through here, so a graph obeys the same rules wherever it is from:
1. ids are text; each node's kind, layer, head and position are those that its id says; no id stands twice;
2. attributes are scalars that every file holds; those with a known meaning have their type;
3. every edge joins two nodes, runs forward through the model (embed; per block heads and attention, MLP, features;
   metric last), has a kind that its receiver has, and stands once. So the graph has no cycle;
4. edges that share a key–value head carry one effect;
5. nodes and edges stand in the model's order, whatever the order of the rows.

The graph is a networkx MultiDiGraph whose edge keys are the kinds: `graph.edges["L8.H7", "L9.H6", "k"]`. It is one
even where no two edges are parallel, so that the same code reads every graph; a MultiDiGraph is a DiGraph to
`isinstance`, and `graph.nodes`, `graph.edges(data=True)`, `successors` and the algorithms work as on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import networkx as nx

from circuits.errors import CircuitError
from circuits.graph import attributes as meaning
from circuits.graph import receivers
from circuits.graph.names import Place, place, read, site_of
from circuits.graph.scalars import Scalar, called, complete, joined, shorten, writable

if TYPE_CHECKING:
    Graph = nx.MultiDiGraph[str]
else:
    Graph = nx.MultiDiGraph  # subscriptable only in its stubs

_FIRST = ("kind", "layer", "head", "feature", "klass", "position")


@final
@dataclass(frozen=True)
class Parts:
    """A graph before it is checked: its own attributes, `(id, attributes)` and `(source, target, attributes)`."""

    attributes: Mapping[str, Any]
    nodes: Sequence[tuple[Any, Mapping[Any, Any]]]
    edges: Iterable[tuple[Any, Any, Mapping[Any, Any]]]


def assemble(parts: Parts) -> Graph:
    """The graph that `parts` describe. Raises CircuitError by the rules above."""
    graph: Graph = nx.MultiDiGraph()
    own = complete(parts.attributes, "graph")
    meaning.check("graph", own, "graph")
    graph.graph.update(own)
    nodes = [_node(name, values, own) for name, values in parts.nodes]
    known = dict(nodes)
    if len(known) < len(nodes):
        names = [name for name, _ in nodes]
        twice = sorted({shorten(name) for name in names if names.count(name) > 1})
        raise CircuitError(
            f"repeated nodes: {', '.join(twice[:8])}; write one row per node, or add @position to its id"
        )
    places = {name: place(name, values) for name, values in nodes}
    graph.add_nodes_from(sorted(nodes, key=lambda node: places[node[0]]))
    edges = [_edge(*edge, known, places, own) for edge in parts.edges]
    edges.sort(key=lambda e: (places[e[0]], places[e[1]], receivers.EDGE_KINDS.index(e[2])))
    for source, target, kind, values in edges:
        if graph.has_edge(source, target, kind):
            raise CircuitError(
                f"{joined(source, target)} is repeated with kind {kind!r}; write one row per edge and kind"
            )
        graph.add_edge(source, target, kind)
        graph.edges[source, target, kind].update(values)
    _one_effect(edges, known)
    return graph


def parts_of(graph: nx.DiGraph[Any]) -> Parts:
    """The parts of `graph`; of a MultiDiGraph, an edge without the attribute `kind` has its key for one."""
    if not graph.is_directed():
        raise CircuitError("the graph has no directions; influence runs from a sender to a receiver")
    edges: list[tuple[Any, Any, Mapping[Any, Any]]] = []
    if graph.is_multigraph():
        many: Any = graph
        for source, target, key, values in many.edges(keys=True, data=True):
            kind = values.get("kind", key)
            if key in receivers.EDGE_KINDS and key != kind:
                raise CircuitError(
                    f"{joined(source, target)}: its key is {shorten(key)}, its kind {shorten(kind)}; which is it?"
                )
            edges.append((source, target, {"kind": kind} | values))
    else:
        edges += list(graph.edges(data=True))
    return Parts(graph.graph, list(graph.nodes(data=True)), edges)


def _node(name: Any, given: Mapping[Any, Any], own: Mapping[str, Scalar]) -> tuple[str, dict[str, Scalar]]:
    if type(name) is not str or not name.strip():
        raise CircuitError(f"a node has the id {shorten(name)}; ids are strings such as L8.H7 or metric")
    where = f"node {called(name)}"
    writable(name, where)
    values = complete(given, where)
    for column, said in read(name).items():
        if values.setdefault(column, said) != said:
            raise CircuitError(f"{where}: its {column} is {shorten(values[column])}, but its id says {shorten(said)}")
    meaning.check("node", values, where)
    for column, count in (("layer", "n_layers"), ("head", "n_heads")):
        if column in values and count in own and int(values[column]) >= int(own[count]):
            raise CircuitError(
                f"{where}: the graph's {count} is {own[count]}, so there is no {column} {values[column]}"
            )
    first = {key: values.pop(key) for key in _FIRST if key in values}
    return name, first | values


def _edge(
    source: Any, target: Any, given: Mapping[Any, Any], nodes: Mapping[str, dict[str, Scalar]],
    places: Mapping[str, Place], own: Mapping[str, Scalar],
) -> tuple[str, str, str, dict[str, Scalar]]:  # fmt: skip
    edge = joined(source, target)
    for end, name in (("source", source), ("target", target)):
        if type(name) is not str or name not in nodes:
            raise CircuitError(f"{edge}: its {end} is not among the {len(nodes)} nodes; add it to `nodes`")
    if places[source][:2] >= places[target][:2]:
        raise CircuitError(
            f"{edge} runs backwards or within one step; influence runs forward through the model, without cycles"
        )
    values = complete(given, edge)
    kind = values.pop("kind", None)
    layers = own.get("n_layers")
    receivers.fits(kind, nodes[target], target, edge, layers if isinstance(layers, int) else None)
    if own.get("parallel_attn_mlp") and _parallel(nodes[source], nodes[target]):
        raise CircuitError(f"{edge}: attention and MLP of one block run in parallel here, so neither reads the other")
    meaning.check("edge", values, edge)
    size = receivers.group_size(own.get("n_heads"), own.get("n_kv_heads"))
    receivers.shared(edge, str(kind), values, nodes[target], size)
    return source, target, str(kind), {"kind": str(kind)} | values


def _parallel(source: Mapping[str, Scalar], target: Mapping[str, Scalar]) -> bool:
    same = source.get("layer") == target.get("layer")
    return same and site_of(source) in {"z", "attn_out"} and site_of(target) == "mlp_out" and target["kind"] == "mlp"


def _one_effect(
    edges: Iterable[tuple[str, str, str, dict[str, Scalar]]], nodes: Mapping[str, dict[str, Scalar]]
) -> None:
    measured: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for source, target, kind, values in edges:
        if "kv_head" in values:
            shared = (source, kind, nodes[target]["layer"], nodes[target].get("position"), values["kv_head"])
            first, effect = measured.setdefault(shared, (target, values.get("effect")))
            if effect != values.get("effect"):
                raise CircuitError(
                    f"{joined(source, first)} and {joined(source, target)} share key–value head {values['kv_head']} "
                    f"({kind}) but not their effect, which is one number; without kv_head each counts by itself"
                )
