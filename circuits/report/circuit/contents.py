"""A graph as plain values: its components and edges, which of their numbers belong together, and how sure each one is.

A number is recognised by its names: `noise` with `noise_low` and `noise_high`, `noise_p`, `noise_n` is one measure with
its interval, its p-value and its count; `effect` has `low`, `high`, `p` and `n` without a prefix. A number is sure where
its p-value is at most ALPHA or, if it has none, where its interval leaves out zero; without either nothing is said.

Edges into the query heads that share a key–value head (`kv_head`) are one measurement: they are drawn to each head, and
counted and listed once, under the name of what was edited (`L9.k[0]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import networkx as nx

from circuits.errors import CircuitError
from circuits.graph.assemble import assemble, parts_of
from circuits.graph.names import Place, place
from circuits.graph.scalars import Scalar
from circuits.stats import ALPHA

if TYPE_CHECKING:
    AnyGraph = nx.Graph[Any]
else:
    AnyGraph = nx.Graph  # subscriptable only in its stubs

MOST: Final = 5_000
"""Edges a page draws; of more, the largest are kept and the others counted."""
ENDS: Final = frozenset({"embed", "metric"})
"""Kinds that stand before the first layer and after the last."""
_PARTS: Final = ("low", "high", "p", "n")
_NOT_MEASURED: Final = frozenset({"layer", "head", "feature", "kv_head", "position"})
"""Attributes that count or name."""


@final
@dataclass(frozen=True)
class Measure:
    """One number of nodes or edges, and the names of the attributes that say how sure it is; None where there is none."""

    name: str
    low: str | None
    high: str | None
    p: str | None
    n: str | None


@final
@dataclass(frozen=True)
class Node:
    """A component."""

    id: str
    kind: str
    group: str
    """Its class where it has one, else its kind: what the colour says."""
    place: Place
    """(block, step within it, head or feature, id): where it stands in the order in which the model computes."""
    position: str | None
    has: dict[str, Scalar]
    """Every attribute, as the graph has it."""
    sure: dict[str, bool]
    """Measure → whether it can be told from zero; left out where nothing says so."""


@final
@dataclass(frozen=True)
class Edge:
    """Measured influence of one component on another; `source` and `target` count the nodes."""

    source: int
    target: int
    kind: str
    measurement: int
    """Edges of one number are one measurement."""
    shared: str | None
    """What was edited, where query heads share it: `L9.k[0]`, with the position after `@`."""
    effect: float | None
    sure: bool | None
    has: dict[str, Scalar]


@final
@dataclass(frozen=True)
class Contents:
    """All that a page shows. Nodes stand in the graph's order, edges by falling |effect|, those without one last."""

    facts: dict[str, Scalar]
    nodes: list[Node]
    edges: list[Edge]
    measures: list[Measure]
    edge_measures: list[Measure]
    total: int
    """Measurements in the graph; where its edges are more than `MOST`, the smallest are not among `edges`."""
    sizes: list[float]
    """|effect| of every measurement in the graph that has one, falling."""

    @property
    def measured(self) -> int:
        """Measurements on the page."""
        return len({edge.measurement for edge in self.edges})


def read(graph: AnyGraph) -> Contents:
    """The contents of a directed graph or multigraph such as `component_graph` and `load_graph` return.

    Raises CircuitError for a graph that is undirected or empty, for a node or an edge that `component_graph` would not take,
    and for an interval or a p-value that cannot be one; the message names it.
    """
    if not graph.is_directed():
        raise CircuitError(
            "an undirected graph says not what feeds what; pass what component_graph or load_graph returned"
        )
    if not len(graph):
        raise CircuitError("nothing to show: the graph has no nodes")
    directed: Any = graph
    checked: Any = assemble(parts_of(directed))  # a networkx graph from elsewhere obeys no rules yet
    named: list[tuple[str, dict[str, Scalar]]] = list(checked.nodes(data=True))
    measures = _measures([has for _, has in named])
    nodes = [_node(name, has, measures) for name, has in named]
    numbers = {node.id: i for i, node in enumerate(nodes)}
    found: list[tuple[str, str, str, dict[str, Scalar]]] = list(checked.edges(keys=True, data=True))
    edge_measures = _measures([has for *_, has in found])
    found.sort(
        key=lambda edge: -1.0 if (size := _number(edge[3], "effect")) is None else abs(size), reverse=True
    )  # stable
    place_of: dict[tuple[Any, ...], int] = {}
    edges: list[Edge] = []
    for source, target, kind, has in found:
        shared = _shared(kind, checked.nodes[target], has)
        sure = _all_sure(has, edge_measures, f"edge {source} → {target} ({kind})").get("effect")
        number = place_of.setdefault((source, kind, shared or target), len(place_of))
        edges.append(Edge(numbers[source], numbers[target], kind, number, shared, _number(has, "effect"), sure, has))
    firsts = {edge.measurement: edge for edge in reversed(edges)}
    kept = edges if len(edges) <= MOST else [e for e in edges[:MOST] if e.measurement < edges[MOST].measurement]
    return Contents(
        facts=dict(checked.graph), nodes=nodes, edges=kept, measures=measures, edge_measures=edge_measures,
        total=len(firsts),
        sizes=sorted((abs(edge.effect) for edge in firsts.values() if edge.effect is not None), reverse=True),
    )  # fmt: skip


def _shared(kind: str, head: Mapping[str, Scalar], has: Mapping[str, Scalar]) -> str | None:
    if "kv_head" not in has:
        return None
    role = f"@{head['position']}" if "position" in head else ""
    return f"L{head['layer']}.{kind}[{has['kv_head']}]{role}"


def _measures(rows: Iterable[Mapping[str, Scalar]]) -> list[Measure]:
    """The measures among the attributes, in the order in which they first appear."""
    numeric = dict.fromkeys(name for row in rows for name, value in row.items() if _is_number(value))
    names = [name for name in numeric if name not in _NOT_MEASURED]
    parts = {name: {part: key for part in _PARTS if (key := _part(name, part)) in numeric} for name in names}
    owned = {key for found in parts.values() for key in found.values()}
    return [Measure(name, *(parts[name].get(part) for part in _PARTS)) for name in names if name not in owned]


def _part(name: str, part: str) -> str:
    return part if name == "effect" else f"{name}_{part}"


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(has: Mapping[str, Scalar], name: str | None) -> float | None:
    value = None if name is None else has.get(name)
    return float(value) if value is not None and _is_number(value) else None


def _sure(has: Mapping[str, Scalar], measure: Measure, where: str) -> bool | None:
    """Whether a measure can be told from zero; None where it has neither p-value nor interval."""
    low, high, p = (_number(has, name) for name in (measure.low, measure.high, measure.p))
    if (low is None) != (high is None):
        raise CircuitError(f"{where}: {measure.name} has one end of an interval and not the other; give both or none")
    if low is not None and high is not None and low > high:
        raise CircuitError(f"{where}: the interval of {measure.name} runs from {low} down to {high}; swap its ends")
    if p is not None and not 0 <= p <= 1:
        raise CircuitError(f"{where}: the p-value of {measure.name} is {p}; give a probability, or leave it out")
    if _number(has, measure.name) is None:
        return None
    if p is not None:
        return p <= ALPHA
    return None if low is None or high is None else low > 0 or high < 0


def _all_sure(has: Mapping[str, Scalar], measures: Iterable[Measure], where: str) -> dict[str, bool]:
    return {m.name: known for m in measures if (known := _sure(has, m, where)) is not None}


def _node(name: str, has: dict[str, Scalar], measures: list[Measure]) -> Node:
    position = has.get("position")
    return Node(
        id=name, kind=str(has["kind"]), group=str(has.get("klass", has["kind"])), place=place(name, has),
        position=None if position is None else str(position), has=has, sure=_all_sure(has, measures, f"node {name}"),
    )  # fmt: skip
