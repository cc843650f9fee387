r"""DOT: what Graphviz draws (`dot -Tsvg circuit.dot`); read back where the package `pydot` is installed.

Attributes of the graph, its nodes and edges stand under their name with `_` before it, so that none means something to
Graphviz (`pos`, `width` and `weight` would); the names without `_` say how to draw. Text is quoted, numbers and truth
values are bare, which keeps their types: a fraction has a point, written without exponent, for DOT has none. In quoted
text a backslash stands as `\\`, a quote as `\"`, a line break as `\n`.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from decimal import Decimal
from importlib import import_module
from typing import Any, Final

from circuits.errors import CircuitError
from circuits.graph.assemble import Graph, Parts
from circuits.graph.formats.form import Form
from circuits.graph.scalars import Scalar, shorten

_SHAPES: Final = {
    "head": "circle", "attn": "ellipse", "norm": "trapezium", "mlp": "box", "feature": "diamond",
    "metric": "doublecircle",
}  # fmt: skip
_ADDS: Final = "#D55E00"
_TAKES: Final = "#0072B2"
_WIDEST: Final = 6.0
_ESCAPED: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_PLAIN: Final = {written: char for char, written in _ESCAPED.items()}
_TEXT: Final = re.compile(r'"(?:[^"\\\n]|\\[\\"n])*"')
_WHOLE: Final = re.compile(r"-?\d{1,19}", re.ASCII)
_FRACTION: Final = re.compile(r"-?\d+\.\d+", re.ASCII)
_PREFIX: Final = "_"


def write(graph: Graph, _stem: str = "") -> str:
    """All of the graph, with widths by |effect| and colours by its sign. Cannot carry an edge's key: see `_kind`."""
    effects = [abs(float(v.get("effect", 0))) for *_, v in graph.edges(data=True)]
    most = max([1e-300, *effects])
    lines = ["digraph {", f"  graph [rankdir=LR{_ours(graph.graph)}];", ""]
    for name, values in graph.nodes(data=True):
        label = f"{values.get('label', name)}\n{values['klass']}" if "klass" in values else values.get("label", name)
        shape = _SHAPES.get(str(values["kind"]), "plaintext")
        lines.append(f"  {_quoted(name)} [label={_quoted(str(label))}, shape={shape}{_ours(values)}];")
    for (source, target, values), effect in zip(graph.edges(data=True), effects, strict=True):
        width, shade = max(0.3, _WIDEST * effect / most), _TAKES if float(values.get("effect", 0)) < 0 else _ADDS
        look = f'label="{values["kind"]}", penwidth={width:.2f}, color="{shade}"'
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [{look}{_ours(values)}];")
    return "\n".join([*lines, "}", ""])


def _ours(values: Mapping[str, Scalar]) -> str:
    return "".join(f", {_quoted(_PREFIX + name)}={_spelled(value)}" for name, value in values.items())


def _spelled(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int):
        return str(value)
    text = f"{Decimal(repr(value)):f}"
    return text if "." in text else f"{text}.0"


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPED.get(char, char) for char in text) + '"'


def read(text: str) -> Parts:
    """The parts of a DOT file that `write` made. Raises CircuitError without `pydot`, and for subgraphs and ports."""
    found = _parsed(text)
    if found.get_type() != "digraph" or found.get_subgraphs():
        raise CircuitError("it must be one digraph without subgraphs; was it written by `export`?")
    own: dict[str, Any] = {}
    nodes: list[tuple[str, dict[str, Any]]] = []
    for node in found.get_nodes():
        name, values = node.get_name(), node.get_attributes()
        if name == "graph":  # bare: attributes of the graph; a node of this name would be quoted
            own |= _values(values, "the graph")
        else:
            nodes.append((_plain(name, "a node"), _values(values, f"node {shorten(name)}")))
    edges: list[tuple[str, str, dict[str, Any]]] = []
    for edge in found.get_edges():
        where = f"edge {len(edges)}"
        ends = _plain(edge.get_source(), where), _plain(edge.get_destination(), where)
        edges.append((*ends, _values(edge.get_attributes(), where)))
    return Parts(own, nodes, edges)


def _parsed(text: str) -> Any:
    try:
        pydot: Any = import_module("pydot")
    except ImportError:
        raise CircuitError(
            "reading DOT needs the package pydot, which is not installed; install it, or keep the graph as .graphml or .json"
        ) from None
    said = io.StringIO()  # pydot prints what it cannot parse
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between pydot and its parser
            graphs = pydot.graph_from_dot_data(text)
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
        raise CircuitError(f"pydot cannot read it ({shorten(str(error))}); is the file complete?") from None
    if not graphs or len(graphs) != 1:
        reason = shorten(" ".join(said.getvalue().split()), 160) if said.getvalue() else f"{len(graphs or [])} graphs"
        raise CircuitError(f"this is no DOT of one graph ({reason}); is the file complete?")
    return graphs[0]


def _values(attributes: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if name.startswith(f'"{_PREFIX}'):
            found[_plain(name, where)[len(_PREFIX) :]] = _value(value, f"{where}: attribute {shorten(name)}")
    return found


def _value(text: Any, where: str) -> Scalar:
    if text in {"true", "false"}:
        return text == "true"
    if isinstance(text, str) and _WHOLE.fullmatch(text):
        return int(text)
    if isinstance(text, str) and _FRACTION.fullmatch(text):
        return float(text)
    return _plain(text, where)


def _plain(text: Any, where: str) -> str:
    if not isinstance(text, str) or not _TEXT.fullmatch(text):
        raise CircuitError(f"{where} is {shorten(text)}, not text in quotes; was it written by `export`?")
    return re.sub(r"\\.", lambda found: _PLAIN[found[0]], text[1:-1])


FORM = Form("dot", ".dot", write, read)
