"""Node-link JSON: what d3 draws, and what `networkx.node_link_graph(data, edges="edges")` reads.

Its form:

    {"directed": true, "multigraph": true, "graph": {…}, "nodes": [{"id": "L8.H7", …}],
     "edges": [{"source": "L8.H7", "target": "L9.H6", "key": "k", "kind": "k", …}]}
"""

from __future__ import annotations

from typing import Any

from circuits.errors import CircuitError
from circuits.graph.assemble import Graph, Parts
from circuits.graph.formats.form import NODE_LINK, Form
from circuits.graph.formats.plain_json import dump, field, load, need
from circuits.graph.scalars import shorten

_FOREIGN = {
    "links": "circuit-tracer's or Neuronpedia's: load it with form='neuronpedia'",
    "cfg": "EAP-IG's: load it with form='eap'",
    "elements": "Cytoscape's: load it with form='cytoscape'",
}


def write(graph: Graph, _stem: str = "") -> str:
    """All of the graph. Cannot carry the attributes `id` of a node and `source`, `target`, `key` of an edge."""
    return dump(data(graph))


def data(graph: Graph) -> dict[str, Any]:
    """`graph` as node-link data: dicts and lists."""
    return {
        "directed": True,
        "multigraph": True,
        "graph": dict(graph.graph),
        "nodes": [{"id": name, **values} for name, values in graph.nodes(data=True)],
        "edges": [
            {"source": source, "target": target, "key": values["kind"], **values}
            for source, target, values in graph.edges(data=True)
        ],
    }


def read(text: str) -> Parts:
    """The parts of node-link JSON, of a graph with single edges too; `kind` of an edge may be its `key`."""
    return parts(load(text), "the file")


def parts(found: dict[str, Any], where: str) -> Parts:
    """The parts of node-link data. Raises CircuitError naming the node or edge that is none."""
    if "edges" not in found or "nodes" not in found:
        for key, whose in _FOREIGN.items():
            if key in found:
                raise CircuitError(f"{where} looks like {whose}")
    if field(found, "directed", bool, where) is not True:
        raise CircuitError(f"{where} holds a graph without directions")
    unknown = sorted(found.keys() - {"directed", "multigraph", "graph", "nodes", "edges"})
    if unknown:
        raise CircuitError(f"{where} has {shorten(unknown[0])}, which node-link data does not; what is it?")
    nodes: list[tuple[Any, dict[str, Any]]] = []
    for number, node in enumerate(field(found, "nodes", list, where)):
        values = dict(need(node, dict, f"node {number} of {where}"))
        nodes.append((field(values, "id", str, f"node {number} of {where}"), values))
        del values["id"]
    edges: list[tuple[Any, Any, dict[str, Any]]] = []
    for number, edge in enumerate(field(found, "edges", list, where)):
        at = f"edge {number} of {where}"
        values = dict(need(edge, dict, at))
        ends = field(values, "source", str, at), field(values, "target", str, at)
        key = values.get("key")
        if isinstance(key, str) and values.setdefault("kind", key) != key:
            raise CircuitError(f"{at}: its key is {shorten(key)}, its kind {shorten(values['kind'])}; which is it?")
        edges.append(
            (*ends, {name: value for name, value in values.items() if name not in {"source", "target", "key"}})
        )
    return Parts(need(found.get("graph", {}), dict, f"'graph' of {where}"), nodes, edges)


FORM = Form("node-link", ".json", write, read, NODE_LINK)
