"""Cytoscape JSON: Cytoscape, Cytoscape.js; `networkx.cytoscape_graph(data)`.

Its form:

    {"data": {…}, "directed": true, "multigraph": true,
     "elements": {"nodes": [{"data": {"id": "L8.H7", …}}], "edges": [{"data": {"source": …, "target": …, …}}]}}
"""

from __future__ import annotations

from typing import Any, Final

from circuits.errors import CircuitError
from circuits.graph.assemble import Graph, Parts
from circuits.graph.formats.form import Form
from circuits.graph.formats.plain_json import dump, field, load, need, once
from circuits.graph.scalars import shorten

_NODE: Final = ("id", "name", "value")
"""Names of one node: Cytoscape's key, what it shows, and what networkx takes for the node."""
_EDGE: Final = ("source", "target", "key")


def write(graph: Graph, _stem: str = "") -> str:
    """All of the graph. Cannot carry attributes `id`, `name`, `value`, `parent` of nodes, `id` and ends of edges.

    `parent` would make a node part of another node in the drawing.
    """
    nodes = [{"data": {"id": n, "name": n, "value": n, **v}} for n, v in graph.nodes(data=True)]
    edges = [{"data": {"source": s, "target": t, "key": v["kind"], **v}} for s, t, v in graph.edges(data=True)]
    return dump({
        "format_version": "1.0", "generated_by": "circuits", "directed": True, "multigraph": True,
        "data": dict(graph.graph), "elements": {"nodes": nodes, "edges": edges},
    })  # fmt: skip


def read(text: str) -> Parts:
    """The parts of Cytoscape JSON; places on the screen are refused by name, for a graph does not hold them."""
    found = load(text)
    if found.get("directed") is not True:
        raise CircuitError("it does not say `directed: true`; influence runs from a sender to a receiver")
    elements = field(found, "elements", dict, "the file")
    nodes: list[tuple[Any, dict[str, Any]]] = []
    for number, node in enumerate(field(elements, "nodes", list, "'elements'")):
        values = _data(node, f"node {number}")
        name = field(values, "id", str, f"node {number}")
        for twin in _NODE:
            if values.pop(twin, name) != name:
                raise CircuitError(f"node {shorten(name)}: its {twin} is another; a node has one name")
        nodes.append((name, values))
    edges: list[tuple[Any, Any, dict[str, Any]]] = []
    for number, edge in enumerate(field(elements, "edges", list, "'elements'")):
        values = _data(edge, f"edge {number}")
        source, target = (field(values, end, str, f"edge {number}") for end in ("source", "target"))
        key = values.get("key")
        if isinstance(key, str) and values.setdefault("kind", key) != key:
            raise CircuitError(f"edge {number}: its key is {shorten(key)}, its kind {shorten(values['kind'])}; which?")
        edges.append((source, target, {name: value for name, value in values.items() if name not in _EDGE}))
    return Parts(_own(found.get("data", {})), nodes, edges)


def _own(data: Any) -> dict[str, Any]:
    """The graph's attributes: an object, or the list of pairs that networkx writes."""
    if not isinstance(data, list):
        return need(data, dict, "'data'")
    pairs: list[tuple[str, Any]] = []
    for item in data:
        if not isinstance(item, list) or len(item) != 2:
            raise CircuitError(f"'data' holds {shorten(item)}; it must be an object, or pairs of name and value")
        pairs.append((need(item[0], str, "a name in 'data'"), item[1]))
    return once(pairs)


def _data(element: Any, where: str) -> dict[str, Any]:
    found = need(element, dict, where)
    more = sorted(found.keys() - {"data", "group"})
    if more:
        raise CircuitError(f"{where} has {shorten(more[0])} beside its data; a component graph does not hold that")
    return dict(field(found, "data", dict, where))


FORM = Form(
    "cytoscape", ".cyjs", write, read,
    {"node": frozenset((*_NODE, "parent")), "edge": frozenset((*_EDGE, "id"))},
)  # fmt: skip
