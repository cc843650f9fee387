"""GEXF 1.3: Gephi and Gephi Lite; `networkx.read_gexf(path)`.

GEXF has attributes of nodes and edges but not of the graph: those stand in its description, as JSON. Kinds stand three
times: in the attribute `kind`, in GEXF's own `kind` of an edge, by which Gephi keeps parallel edges apart, and in
`networkx_key`, from which networkx restores the key.
"""

from __future__ import annotations

import json
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement

from circuits.errors import CircuitError
from circuits.graph.assemble import Graph, Parts
from circuits.graph.formats import markup, plain_json
from circuits.graph.formats.form import Form
from circuits.graph.scalars import Scalar, shorten

_NS: Final = "{http://gexf.net/1.3}"
_KEY: Final = "networkx_key"


def write(graph: Graph, _stem: str = "") -> str:
    """All of the graph. Cannot carry graph attributes as such (see above), nor edge attributes `id` and `networkx_key`."""
    root = Element("gexf", {"xmlns": _NS[1:-1], "version": "1.3"})
    meta = SubElement(root, "meta")
    SubElement(meta, "creator").text = "circuits"
    SubElement(meta, "description").text = json.dumps(graph.graph, ensure_ascii=False, allow_nan=False)
    body = SubElement(root, "graph", {"defaultedgetype": "directed", "mode": "static"})
    edges = [(u, v, {**values, _KEY: values["kind"]}) for u, v, values in graph.edges(data=True)]
    # ids of columns are numbers: Gephi Lite takes any other id for the column's title
    mine = markup.columns(values for _, values in graph.nodes(data=True))
    theirs = markup.columns((values for *_, values in edges), start=len(mine))
    for owner, columns in (("node", mine), ("edge", theirs)):
        declared = SubElement(body, "attributes", {"class": owner})
        for (name, kind), key in columns.items():
            SubElement(declared, "attribute", {"id": key, "title": name, "type": kind})
    nodes = SubElement(body, "nodes")
    for name, values in graph.nodes(data=True):
        _values(SubElement(nodes, "node", {"id": name, "label": str(values.get("label", name))}), values, mine)
    body = SubElement(body, "edges")
    for number, (source, target, values) in enumerate(edges):
        ends = {"id": str(number), "source": source, "target": target, "kind": values["kind"]}
        _values(SubElement(body, "edge", ends), values, theirs)
    return markup.render(root)


def _values(element: Element, values: dict[str, Scalar], columns: markup.Columns) -> None:
    body = SubElement(element, "attvalues")
    for name, value in values.items():
        key = columns[name, markup.TYPES[type(value)]]
        SubElement(body, "attvalue", {"for": key, "value": markup.spelled(value)})


def read(text: str) -> Parts:
    """The parts of GEXF: nodes, edges and their `attvalues`. Drawings, times and hierarchies are refused by name."""
    root = markup.parse(text, _NS + "gexf")
    markup.only(root, (_NS + "meta", _NS + "graph"), "the file")
    body = _one(root, "graph")
    if body.get("defaultedgetype") != "directed" or body.get("mode", "static") != "static":
        raise CircuitError("its graph must be directed and static (defaultedgetype, mode)")
    markup.only(body, [_NS + tag for tag in ("attributes", "nodes", "edges")], "the graph")
    titles = {owner: _titles(body, owner) for owner in ("node", "edge")}
    nodes: list[tuple[str, dict[str, Any]]] = []
    for node in _parts(_one(body, "nodes"), "node"):
        name = markup.attribute(node, "id", f"node {len(nodes)}")
        nodes.append((name, _found(node, titles["node"], f"node {shorten(name)}")))
    edges: list[tuple[str, str, dict[str, Any]]] = []
    for edge in _parts(_one(body, "edges"), "edge"):
        where = f"edge {len(edges)}"
        if edge.get("type", "directed") != "directed":
            raise CircuitError(f"{where} is {shorten(edge.get('type'))}; influence runs from a sender to a receiver")
        ends = markup.attribute(edge, "source", where), markup.attribute(edge, "target", where)
        values = _found(edge, titles["edge"], where)
        for twin in (edge.get("kind"), values.pop(_KEY, None)):
            if twin is not None and values.setdefault("kind", twin) != twin:
                raise CircuitError(f"{where}: its kind is {shorten(values['kind'])} and {shorten(twin)}; which is it?")
        edges.append((*ends, values))
    return Parts(_described(root), nodes, edges)


def _one(parent: Element, tag: str) -> Element:
    found = parent.findall(_NS + tag)
    if len(found) != 1:
        raise CircuitError(f"it holds {len(found)} <{tag}>; one is needed: is the file complete?")
    return found[0]


def _parts(parent: Element, tag: str) -> list[Element]:
    markup.only(parent, (_NS + tag,), f"<{tag}s>")
    return parent.findall(_NS + tag)


def _described(root: Element) -> dict[str, Any]:
    text = root.findtext(f"{_NS}meta/{_NS}description") or ""
    if text.lstrip().startswith("{"):
        return plain_json.load(text)
    return {"description": text} if text else {}


def _titles(body: Element, owner: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for declared in body.findall(_NS + "attributes"):
        if declared.get("class") not in {"node", "edge"} or declared.get("mode", "static") != "static":
            raise CircuitError("its attributes must belong to nodes or edges (class), and be static (mode)")
        if declared.get("class") == owner:
            for column in _parts(declared, "attribute"):
                key = markup.attribute(column, "id", f"an attribute of {owner}s")
                where = f"attribute {shorten(key)} of {owner}s"
                markup.only(column, (), where)
                if key in found:
                    raise CircuitError(f"{where} is declared twice")
                found[key] = markup.attribute(column, "title", where), markup.kind_of(column.get("type"), where)
    return found


def _found(element: Element, titles: dict[str, tuple[str, str]], where: str) -> dict[str, Any]:
    markup.only(element, (_NS + "attvalues",), where)
    found: dict[str, Any] = {}
    for body in element.findall(_NS + "attvalues"):
        for item in _parts(body, "attvalue"):
            key = markup.attribute(item, "for", f"an attribute of {where}")
            if key not in titles:
                raise CircuitError(f"{where}: attribute {shorten(key)} is not declared; is the file complete?")
            name, kind = titles[key]
            if name in found:
                raise CircuitError(f"{where}: attribute {shorten(name)} stands twice")
            text = markup.attribute(item, "value", f"{where}: attribute {shorten(name)}")
            found[name] = markup.value(text, kind, f"{where}: attribute {shorten(name)}")
    return found


FORM = Form("gexf", ".gexf", write, read, {"edge": frozenset(("id", _KEY))})
