"""How faithful the circuit is at each threshold, counted in edges of this graph so that the slider can point into it.

    edges  threshold  faithfulness  low   high  null
       10      0.210          0.41  0.33  0.50  0.02
      200      0.004          0.93  0.90  0.96  0.11

One of `threshold` (of |effect|), `edges` (how many are kept) or `share` (of all edges) says where a row stands; the first
of them that the frame has is used. `null` or `baseline` is what random edges of the same number keep.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Final, final

import pandas as pd

from circuits.errors import CircuitError
from circuits.frames import records
from circuits.report.circuit.contents import Contents

_PLACES: Final = ("threshold", "edges", "share")
_NULLS: Final = ("null", "baseline")


@final
@dataclass(frozen=True)
class Point:
    """Faithfulness of the circuit made of the `edges` largest edges."""

    edges: int
    faithfulness: float
    low: float | None
    high: float | None
    null: float | None


def points(curve: pd.DataFrame, contents: Contents) -> list[Point]:
    """The rows of `curve`, by rising number of edges.

    Raises CircuitError for a frame without rows or without the columns that say what was kept and how faithful it was, for
    a cell without a number, and for a curve that cannot belong to this graph.
    """
    place = next((name for name in _PLACES if name in curve.columns), None)
    if place is None or "faithfulness" not in curve.columns:
        needed = "faithfulness, and one of threshold, edges and share"
        raise CircuitError(f"curve: columns {needed} are needed; there are {list(curve.columns)}")
    if curve.empty:
        raise CircuitError("curve: it has no rows; leave `curve` out")
    if ("low" in curve.columns) != ("high" in curve.columns):
        raise CircuitError("curve: it has one end of an interval and not the other; give low and high, or neither")
    null = next((name for name in _NULLS if name in curve.columns), None)
    wanted = {"place": place, "faithfulness": "faithfulness", "null": null} | {
        end: end for end in ("low", "high") if end in curve.columns
    }
    found: list[Point] = []
    for row, values in enumerate(records(curve)):
        cell = {key: _number(values[name], f"curve: row {row}: {name}") for key, name in wanted.items() if name}
        found.append(
            Point(
                edges=_edges(place, cell["place"], contents, row), faithfulness=cell["faithfulness"],
                low=cell.get("low"), high=cell.get("high"), null=cell.get("null"),
            )
        )  # fmt: skip
    found.sort(key=lambda point: point.edges)
    if len(found) > 1 and found[0].edges == found[-1].edges:
        raise CircuitError(
            f"curve: every {place} keeps {found[0].edges} of the graph's {contents.total} edges; "
            "was the curve measured on this graph, with thresholds of its edges' |effect|?"
        )
    return found


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CircuitError(f"{where} is {value!r}; give finite numbers, and drop rows that are undefined")
    return float(value)


def _edges(place: str, value: float, contents: Contents, row: int) -> int:
    """How many edges of the graph a row of the curve keeps."""
    if place == "threshold":
        if value <= 0:
            return contents.total
        return len(contents.sizes) - bisect_left(contents.sizes[::-1], value)
    kept = round(value * contents.total) if place == "share" else round(value)
    if not 0 <= kept <= contents.total:
        raise CircuitError(
            f"curve: row {row}: {place} {value:g} is {kept} edges, and the graph has {contents.total}; "
            "was the curve measured on this graph?"
        )
    return kept
