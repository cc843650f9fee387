"""Which edges of a set lie on a path embed → … → metric, and how a set grows back from the metric."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping

from circuits.engine.edges import METRIC, Edge
from circuits.engine.edges.grid import Grid


def connected(grid: Grid, edges: Collection[Edge]) -> frozenset[Edge]:
    """The edges on a path from the embedding to the metric along others of them.

    A head is passed through any of its queries, keys and values; a post-norm through any of its block's. Under `resample`
    what is left out changes nothing: a sender whose inputs are all cut adds what it adds in the corrupt run. Under `mean`
    and `zero` a sender without inputs does not add its mean (or nothing), so that leaving out its edges cuts them.
    """
    into: dict[str, list[Edge]] = {}
    for edge in edges:
        into.setdefault(edge.receiver, []).append(edge)
    reached = {grid.senders[0]}
    for receiver in grid.receivers:  # in the order of the forward pass
        if any(edge.sender in reached for edge in into.get(receiver, ())):
            reached.update(grid.feeds(receiver))
    useful: set[str] = set()
    """Senders that lead to the metric."""
    kept: set[Edge] = set()
    for receiver in reversed(grid.receivers):
        if receiver == METRIC or not useful.isdisjoint(grid.feeds(receiver)):
            leading = into.get(receiver, ())
            useful.update(edge.sender for edge in leading)
            kept.update(edge for edge in leading if edge.sender in reached)
    return frozenset(kept)


def grown(grid: Grid, keys: Mapping[Edge, float], n: int) -> frozenset[Edge]:
    """At most n edges, each the largest of those that lead into what is there already; the metric is there first.

    EAP's greedy choice. A component that joins brings the edges into its queries, keys and values, or into its MLP.
    """
    order = {edge: i for i, edge in enumerate(keys)}
    into: dict[str, list[Edge]] = {}
    for edge in keys:
        into.setdefault(edge.receiver, []).append(edge)
    inputs: dict[str, list[str]] = {}
    for receiver in grid.receivers:
        for sender in grid.feeds(receiver):
            inputs.setdefault(sender, []).append(receiver)
    heap: list[tuple[float, int, Edge]] = []
    open_to: set[str] = set()

    def join(receiver: str) -> None:
        if receiver not in open_to:
            open_to.add(receiver)
            for edge in into.get(receiver, ()):
                heapq.heappush(heap, (-keys[edge], order[edge], edge))

    join(METRIC)
    found: set[Edge] = set()
    while heap and len(found) < n:
        edge = heapq.heappop(heap)[2]
        found.add(edge)
        for receiver in inputs.get(edge.sender, ()):
            join(receiver)
    return frozenset(found)
