"""The graph as a file that other tools open, and back.

    export(graph, "circuit.graphml")             Gephi, yEd, igraph, networkx.read_graphml
    export(graph, "circuit.gexf")                Gephi, networkx.read_gexf
    export(graph, "circuit.cyjs")                Cytoscape, networkx.cytoscape_graph
    export(graph, "circuit.json")                d3, networkx.node_link_graph(…, edges="edges")
    export(graph, "circuit.dot")                 Graphviz; read back through pydot
    export(graph, "circuit.eap.json")            EAP-IG and MIB
    export(graph, "circuit.neuronpedia.json")    Neuronpedia and circuit-tracer
    load_graph("circuit.graphml")                the same nodes, edges, kinds, attributes and types

What a format cannot hold is kept beside what its tools read, or refused by name before anything is written; each
writer says which. A file is written whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import networkx as nx

from circuits.errors import CircuitError, OutputError
from circuits.graph.assemble import Graph, assemble, parts_of
from circuits.graph.attributes import Owner
from circuits.graph.formats import cytoscape, dot, eap, gexf, graphml, neuronpedia, node_link
from circuits.graph.formats.form import Form
from circuits.graph.scalars import called, joined, shorten

_ALL: Final = (graphml.FORM, gexf.FORM, cytoscape.FORM, dot.FORM, eap.FORM, neuronpedia.FORM, node_link.FORM)
FORMS: Final[dict[str, Form]] = {form.name: form for form in _ALL}
"""Name -> format. A suffix that ends in another's comes first."""
LARGEST: Final = 256 << 20
"""Bytes of a file that are read at most."""


def export(graph: nx.DiGraph[str], path: str | Path, *, form: str | None = None) -> Path:
    """Write `graph` in the format that the suffix names, or `form`, and return the path.

    The graph may be one of `component_graph` that was changed since, or a DiGraph of one's own that obeys the same
    rules (`assemble`). Raises CircuitError where it does not; OutputError for a suffix or form that is not known, for
    an attribute, node or edge that the format would lose or change (it is named), and where nothing can be written.
    What stood at `path` before stays as it was then.
    """
    path = Path(path)
    chosen = _chosen(path, form, OutputError)
    whole = assemble(parts_of(graph))
    _reserved(whole, chosen)
    text = chosen.write(whole, path.name[: -len(".json")] if path.name.lower().endswith(".json") else path.stem)
    _replace(path, text)
    return path


def load_graph(path: str | Path, *, form: str | None = None, model_hash: str | None = None) -> Graph:
    """Read what `export` wrote, or what EAP-IG, circuit-tracer or another tool did.

    `model_hash`: the model that the graph must be of (`model.hash`, or `provenance.model_hash` of a result). Raises
    CircuitError for a file that is missing, cut off, of another format or another model, and for one that holds no
    component graph, naming the node, edge or attribute at fault.
    """
    path = Path(path)
    chosen = _chosen(path, form, CircuitError)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)  # a device or a pipe may never end
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CircuitError(f"{path} holds no component graph: it is no UTF-8 text ({error.reason})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CircuitError(f"cannot read {called(str(path))}: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > LARGEST:
        raise CircuitError(
            f"{path} holds no component graph: it has more than {LARGEST} bytes, which is all that is read"
        )
    graph = parse_graph(text, chosen, str(path))
    if model_hash is not None and graph.graph.get("model_hash") != model_hash:
        whose = graph.graph.get("model_hash", "not said")
        raise CircuitError(
            f"{path} is of another model: {graph.graph.get('model', 'its title is not said')} (hash {whose}), "
            f"not the one of hash {model_hash}; compute the graph again with this model"
        )
    return graph


def parse_graph(text: str, form: Form, source: str = "the text") -> Graph:
    """The graph that `text` holds in `form`. Raises CircuitError naming `source` and what is wrong."""
    try:
        return assemble(form.read(text))
    except CircuitError as error:
        raise CircuitError(f"{source} holds no component graph: {error}") from error


def _chosen(path: Path, name: str | None, error: type[CircuitError]) -> Form:
    if name is not None:
        if name not in FORMS:
            raise error(f"no graph format is called {shorten(name)}; known: {', '.join(FORMS)}")
        return FORMS[name]
    for form in FORMS.values():
        if path.name.lower().endswith(form.suffix) and len(path.name) > len(form.suffix):
            return form
    known = ", ".join(form.suffix for form in FORMS.values())
    raise error(f"{path.name}: no graph format has this suffix; known: {known}; or give form=")


def _reserved(graph: Graph, form: Form) -> None:
    def refuse(owner: Owner, where: str, values: dict[str, Any]) -> None:
        taken = sorted(form.reserved.get(owner, frozenset[str]()) & values.keys())
        if taken:
            raise OutputError(
                f"{where}: attribute {shorten(taken[0])} has a name that {form.name} uses for itself; rename it"
            )

    refuse("graph", "graph", graph.graph)
    for name, values in graph.nodes(data=True):
        refuse("node", f"node {called(name)}", values)
    for source, target, values in graph.edges(data=True):
        refuse("edge", joined(source, target), values)


def _replace(path: Path, text: str) -> None:
    """Write beside the place and move there, so that a reader never sees half a file and a failure leaves the old one."""
    try:
        real = Path(os.path.realpath(path))
        part = real.with_name(f".{real.name}.{os.getpid()}.part")
        real.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(real)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {called(str(path))}: {reason}; choose another place") from error
