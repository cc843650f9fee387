"""What a file format is to this package: a way to write a graph as text, and a way to read text as parts of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

from circuits.graph.assemble import Graph, Parts
from circuits.graph.attributes import Owner

NODE_LINK: Mapping[Owner, frozenset[str]] = {
    "node": frozenset(("id",)),
    "edge": frozenset(("source", "target", "key")),
}
"""Names that node-link JSON uses itself; the formats that carry it inside use them too."""


@final
@dataclass(frozen=True)
class Form:
    """One format. `write` takes a graph that `assemble` made and the file's stem; `read` raises CircuitError only."""

    name: str
    """How a caller names it: `export(graph, path, form="gexf")`."""
    suffix: str
    write: Callable[[Graph, str], str]
    read: Callable[[str], Parts]
    reserved: Mapping[Owner, frozenset[str]] = field(default_factory=dict[Owner, frozenset[str]])
    """Names of attributes that the format, or networkx's reader of it, uses for itself."""
