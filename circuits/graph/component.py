"""One graph of all that was measured: components as nodes, measured influence as edges.

    nodes = pd.DataFrame({"id": ["L8.H7", "L9.H6", "L9.MLP"], "klass": ["direct", "", ""], "noising": [0.41, 0.2, 0.12]})
    edges = pd.DataFrame({
        "source": ["L8.H7", "L8.H7", "L9.H6"], "target": ["L9.H6", "L9.H6", "L9.MLP"],
        "kind": ["q", "k", "mlp"], "effect": [0.2, 0.1, 0.05],
    })
    graph = component_graph(nodes, edges, {"model": "refusal-gemma (not Gemma)"})
    graph.edges["L8.H7", "L9.H6", "k"]["effect"]

1. Every row of `nodes` is a node. Its kind, layer and head are read from its id (`names`) where the columns do not say
   them. 2. Every further column is an attribute; a missing value is left out, never written as zero. 3. Every row of
`edges` is an edge of its kind (`receivers`). 4. `assemble` checks and orders them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import pandas as pd

from circuits.errors import CircuitError
from circuits.graph.assemble import Graph, Parts, assemble
from circuits.graph.receivers import addressed
from circuits.graph.scalars import Scalar, called, joined, scalars, shorten

_WHOLE: Final = {"layer", "head", "feature", "kv_head"}
"""Columns of whole numbers, which come as float where they have gaps."""


def component_graph(
    nodes: pd.DataFrame,
    edges: pd.DataFrame | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Graph:
    """A directed graph, a MultiDiGraph keyed by kind, with a node per row of `nodes` and the edges of `edges`.

    `nodes`: `id`, a site label (`L8.H7`, `L9.MLP`, `L9.F123`, `embed`), with `@role` after it where a component stands
    at several positions, or `metric`; optional `kind`, `layer`, `head`, `feature`, `site`, `klass`, `position`, `label`,
    `in_circuit`, `effect`, `low`, `high`, `p`, and any other scalar. `edges`: `source`, `target`, `kind` (q, k, v, mlp,
    final, writes, feeds), and any of `effect`, `low`, `high`, `p`, `in_circuit`, `kv_head`. A target may be the site
    that was edited: `L9.q[6]` is head 6 through its queries, `L9.k[0]` every query head in `nodes` of key–value head 0
    (this needs the attributes `n_heads` and `n_kv_heads`). `attributes` belong to the graph: where its numbers come
    from, `model` and `model_hash` first of all, and the model's `n_layers`, `n_heads`, `n_kv_heads`, `d_model` and
    `parallel_attn_mlp`, without which EAP-IG's format cannot be written. Effects keep the unit they were measured in.

    Raises CircuitError for a missing column, a repeated or unreadable id, a column that contradicts an id,
    an edge that is repeated, runs to an unknown node or backwards, and values that files cannot hold.
    """
    _need(nodes, "nodes", "id")
    own = scalars(attributes or {}, "graph")
    described = [_node(row, place) for place, row in enumerate(_rows(nodes))]
    rows: list[dict[str, Any]] = []
    if edges is not None and len(edges):
        _need(edges, "edges", "source", "target", "kind")
        rows = _rows(edges)
    names = [name for name, _ in described]
    return assemble(Parts(own, described, [edge for row in rows for edge in _edges(row, names, own)]))


def _need(frame: pd.DataFrame, what: str, *columns: str) -> None:
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise CircuitError(f"{what}: no column {', '.join(map(repr, lacking))}; there are {list(frame.columns)}")


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise CircuitError(f"the column {twice[0]!r} stands twice; rename one")
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _whole(values: dict[str, Scalar]) -> dict[str, Scalar]:
    return {
        name: int(value) if name in _WHOLE and isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }


def _node(row: dict[str, Any], place: int) -> tuple[str, dict[str, Scalar]]:
    name = row.pop("id")
    if not isinstance(name, str) or not name.strip():
        raise CircuitError(f"nodes: row {place} has the id {shorten(name)}; write a site such as L8.H7, or metric")
    return str(name), _whole(scalars(row, f"node {called(name)}"))


def _edges(
    row: dict[str, Any], names: Iterable[str], own: Mapping[str, Scalar]
) -> Iterator[tuple[Any, Any, dict[str, Scalar]]]:
    source, target = row.pop("source"), row.pop("target")
    edge = joined(source, target)
    values = _whole(scalars(row, edge))
    ends = addressed(target, names, own.get("n_heads"), own.get("n_kv_heads")) if isinstance(target, str) else None
    for name, implied in ends or [(target, {})]:
        for column, said in implied.items():
            if values.setdefault(column, said) != said:
                raise CircuitError(
                    f"{edge}: its {column} is {shorten(values[column])}, but its target says {shorten(said)}"
                )
        yield source, name, dict(values)
