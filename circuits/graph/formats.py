"""The graph as a file that other tools open, and back.

    export(graph, "circuit.graphml")     Gephi, yEd, Cytoscape, networkx.read_graphml
    export(graph, "circuit.json")        d3, networkx.node_link_graph(…, edges="edges")
    load_graph("circuit.graphml")        the same nodes, edges, attributes and types

What a format would change on the way, such as an empty string, which GraphML forgets, is refused before
anything is written.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

import networkx as nx

from circuits.errors import CircuitError, OutputError
from circuits.graph.component import Graph

_UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot hold, and the carriage return, which it turns into a newline."""
_RESERVED: Final = {
    "graph": {"node_default", "edge_default"},
    "node": {"id"},
    "edge": {"id", "key", "source", "target"},
}
"""Attribute names that a format uses for itself."""


def export(graph: Graph, path: str | Path) -> Path:
    """Write `graph` in the format that the suffix names, and return the path.

    Raises OutputError for a suffix that is not known, for an attribute that a format would lose or change
    (it is named with its node), and where nothing can be written.
    """
    path = Path(path)
    write, _ = _format(path)
    _check(graph)
    text = write(graph)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    return path


def load_graph(path: str | Path) -> Graph:
    """Read what `export` wrote.

    Raises CircuitError for a file that is missing or unknown, or that holds no directed graph.
    """
    path = Path(path)
    _, read = _format(path)
    try:
        graph = read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitError(f"cannot read {path}: {error.strerror or error}") from error
    except (ParseError, ValueError, KeyError, TypeError, AttributeError, nx.NetworkXError) as error:
        raise CircuitError(f"{path} holds no graph: {error}") from error
    if not graph.is_directed() or graph.is_multigraph():
        raise CircuitError(f"{path} holds no directed graph with single edges; was it written by `export`?")
    return graph


def _check(graph: Graph) -> None:
    for kind, owner, values in _owners(graph):
        for name, value in values.items():
            where = f"{owner}: attribute {name!r}"
            if not isinstance(name, str) or not name or name in _RESERVED[kind] or _UNWRITABLE.search(name):
                raise OutputError(
                    f"{where} has a name that files use for themselves or cannot hold; rename it"
                )
            if not isinstance(value, str | int | float):  # a bool is an int
                raise OutputError(f"{where} is {value!r}; files hold str, int, float and bool: leave it out")
            if isinstance(value, float) and not math.isfinite(value):
                raise OutputError(f"{where} is {value}; JSON holds finite numbers only: leave it out")
            if isinstance(value, str) and (not value or _UNWRITABLE.search(value)):
                raise OutputError(f"{where} is {value!r}: empty or with a character that GraphML cannot hold")


def _owners(graph: Graph) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    yield "graph", "graph", graph.graph
    nodes: Any = graph.nodes(data=True)  # a graph from elsewhere may have other ids than strings
    for node, values in nodes:
        if not isinstance(node, str) or not node or _UNWRITABLE.search(node):
            raise OutputError(f"node {node!r}: ids are strings that GraphML can hold")
        yield "node", f"node {node}", values
    for source, target, values in graph.edges(data=True):
        yield "edge", f"edge {source} → {target}", values


def _to_graphml(graph: Graph) -> str:
    text = io.BytesIO()
    nx.write_graphml_xml(graph, text)
    return text.getvalue().decode("utf-8") + "\n"


def _from_graphml(text: str) -> Any:
    graph = nx.parse_graphml(text)
    for default in _RESERVED[
        "graph"
    ]:  # networkx keeps the format's defaults beside the graph's own attributes
        graph.graph.pop(default, None)
    return graph


def _to_json(graph: Graph) -> str:
    return (
        json.dumps(nx.node_link_data(graph, edges="edges"), ensure_ascii=False, indent=1, allow_nan=False)
        + "\n"
    )


def _from_json(text: str) -> Any:
    return nx.node_link_graph(json.loads(text), edges="edges")


_FORMATS: Final[dict[str, tuple[Callable[[Graph], str], Callable[[str], Any]]]] = {
    ".graphml": (_to_graphml, _from_graphml),
    ".json": (_to_json, _from_json),
}


def _format(path: Path) -> tuple[Callable[[Graph], str], Callable[[str], Any]]:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_FORMATS)
        raise OutputError(
            f"{path.name}: no graph format has the suffix {path.suffix!r}; known: {known}"
        ) from None
