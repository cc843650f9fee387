"""The circuit's page inside a notebook: the same page in a frame of its own, apart from the notebook around it.

The frame is sandboxed: the page's scripts run, and can neither read the notebook nor reach the server it came from. What
leaves it are the pictures and tables that its buttons write.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import final

import pandas as pd

from circuits.report.circuit.contents import AnyGraph
from circuits.report.circuit.page import circuit_page


@final
@dataclass(frozen=True)
class Shown:
    """A page that shows itself where it stands on the last line of a cell."""

    page: str
    """The whole HTML."""
    title: str
    said: str
    """One line for a terminal."""
    height: int

    def __repr__(self) -> str:
        return self.said

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" title="{escape(self.title)}" srcdoc="{escape(self.page)}" '
            f'style="width:100%;height:{self.height}px;border:1px solid rgba(128,128,128,.35)"></iframe>'
        )


def show(
    graph: AnyGraph, *, curve: pd.DataFrame | None = None, title: str = "The circuit", size: str | None = None,
    height: int = 760,
) -> Shown:  # fmt: skip
    """The page of `graph` for the last line of a notebook's cell, `height` pixels high.

    All other arguments and errors as in `write_page`, which keeps the page as a file.
    """
    page = circuit_page(graph, curve=curve, title=title, size=size)
    model = graph.graph.get("model", "a model that this graph does not name")
    said = f"{title}: {graph.number_of_nodes()} components, {graph.number_of_edges()} connections of {model}"
    return Shown(page, title, said, height)
