"""GraphML: Gephi, yEd, igraph, Cytoscape; `networkx.read_graphml(path, force_multigraph=True)`.

Every edge has an id of its own (`e0`, `e1`, …), since readers drop a second edge of the same id; its kind is the
attribute `kind`. networkx takes the id for the edge's key, `load_graph` the kind.
"""

from __future__ import annotations

from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement

from circuits.errors import CircuitError
from circuits.graph.assemble import Graph, Parts
from circuits.graph.formats import markup
from circuits.graph.formats.form import Form
from circuits.graph.scalars import Scalar, shorten

_NS: Final = "{http://graphml.graphdrawing.org/xmlns}"
_OWNERS: Final = ("graph", "node", "edge")


def write(graph: Graph, _stem: str = "") -> str:
    """All of the graph: graph, node and edge attributes with their types. Cannot carry an edge's key: see `kind`.

    An attribute that is a whole number on one node and a fraction on another becomes two columns of one name.
    """
    root = Element("graphml", {"xmlns": _NS[1:-1]})
    edges = list(graph.edges(data=True))
    owners: dict[str, list[dict[str, Scalar]]] = {
        "graph": [graph.graph], "node": [v for _, v in graph.nodes(data=True)], "edge": [v for *_, v in edges],
    }  # fmt: skip
    columns = {owner: markup.columns(values, owner[0]) for owner, values in owners.items()}
    for owner, declared in columns.items():
        for (name, kind), key in declared.items():
            SubElement(root, "key", {"id": key, "for": owner, "attr.name": name, "attr.type": kind})
    body = SubElement(root, "graph", {"edgedefault": "directed"})
    _data(body, graph.graph, columns["graph"])
    for name, values in graph.nodes(data=True):
        _data(SubElement(body, "node", {"id": name}), values, columns["node"])
    for number, (source, target, values) in enumerate(edges):
        ends = {"id": f"e{number}", "source": source, "target": target}
        _data(SubElement(body, "edge", ends), values, columns["edge"])
    return markup.render(root)


def _data(element: Element, values: dict[str, Scalar], columns: markup.Columns) -> None:
    for name, value in values.items():
        key = columns[name, markup.TYPES[type(value)]]
        SubElement(element, "data", {"key": key}).text = markup.spelled(value)


def read(text: str) -> Parts:
    """The parts of GraphML: nodes, edges and `data`. Drawings, ports, nested graphs and defaults are refused by name."""
    root = markup.parse(text, _NS + "graphml")
    markup.only(root, (_NS + "key", _NS + "graph"), "the file")
    graphs = root.findall(_NS + "graph")
    if len(graphs) != 1:
        raise CircuitError(f"it holds {len(graphs)} graphs; one is needed: is the file complete?")
    if graphs[0].get("edgedefault") != "directed":
        raise CircuitError(f"its edges are {shorten(graphs[0].get('edgedefault'))} by default; they must be directed")
    keys = _keys(root)
    markup.only(graphs[0], (_NS + "data", _NS + "node", _NS + "edge"), "the graph")
    own = _values(graphs[0], keys["graph"], "the graph")
    nodes: list[tuple[str, dict[str, Any]]] = []
    for number, node in enumerate(graphs[0].findall(_NS + "node")):
        name = markup.attribute(node, "id", f"node {number}")
        where = f"node {shorten(name)}"
        markup.only(node, (_NS + "data",), where)
        nodes.append((name, _values(node, keys["node"], where)))
    edges: list[tuple[str, str, dict[str, Any]]] = []
    for number, edge in enumerate(graphs[0].findall(_NS + "edge")):
        where = f"edge {number}"
        markup.only(edge, (_NS + "data",), where)
        if edge.get("directed", "true") != "true":
            raise CircuitError(f"{where} has no direction; influence runs from a sender to a receiver")
        ends = markup.attribute(edge, "source", where), markup.attribute(edge, "target", where)
        edges.append((*ends, _values(edge, keys["edge"], where)))
    return Parts(own, nodes, edges)


def _keys(root: Element) -> dict[str, dict[str, tuple[str, str]]]:
    """Per owner: a key's id -> (attribute, type)."""
    found: dict[str, dict[str, tuple[str, str]]] = {owner: {} for owner in _OWNERS}
    for key in root.findall(_NS + "key"):
        name = markup.attribute(key, "id", "a key")
        where = f"key {shorten(name)}"
        markup.only(key, (), where)
        column = markup.attribute(key, "attr.name", where), markup.kind_of(key.get("attr.type"), where)
        owner = key.get("for", "all")
        if owner not in {*_OWNERS, "all"}:
            raise CircuitError(f"{where} is for {shorten(owner)}; graphs, nodes and edges have attributes")
        for one in _OWNERS if owner == "all" else (owner,):
            if name in found[one]:
                raise CircuitError(f"{where} is declared twice")
            found[one][name] = column
    return found


def _values(element: Element, keys: dict[str, tuple[str, str]], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for data in element.findall(_NS + "data"):
        markup.only(data, (), where)
        key = markup.attribute(data, "key", f"an attribute of {where}")
        if key not in keys:
            raise CircuitError(f"{where}: the key {shorten(key)} is not declared; is the file complete?")
        name, kind = keys[key]
        if name in found:
            raise CircuitError(f"{where}: attribute {shorten(name)} stands twice")
        found[name] = markup.value(data.text or "", kind, f"{where}: attribute {shorten(name)}")
    return found


FORM = Form("graphml", ".graphml", write, read)
