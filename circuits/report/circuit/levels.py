"""The stops of the slider: how much of the circuit is shown, from its strongest edge to all of it.

A stop is a threshold of |effect|, so edges of equal size come and go together. Up to STOPS distinct sizes each is a stop;
of more, the stops lie evenly in the logarithm of the number of edges, because the first ten edges matter as much as the
last thousand. Edges whose effect was not measured come with the last stop, which shows everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from circuits.report.circuit.contents import Contents

STOPS: Final = 200
OPENS: Final = 150
"""A page opens with at most so many edges, where its first stop has no more."""


@final
@dataclass(frozen=True)
class Level:
    """One stop."""

    threshold: float | None
    """Edges with |effect| of at least this are shown; None for all, also those without a measured effect."""
    edges: int
    """Edges of the page that it shows."""


def levels(contents: Contents) -> list[Level]:
    """The stops, from few edges to all; at least one."""
    sizes = np.array([abs(edge.effect) for edge in contents.edges if edge.effect is not None])
    values, counts = np.unique(-sizes, return_counts=True)
    shown = np.cumsum(counts)
    if len(values) > STOPS:
        wanted = np.geomspace(shown[0], shown[-1], STOPS)
        kept = np.unique(np.searchsorted(shown, wanted).clip(max=len(values) - 1))
    else:
        kept = np.arange(len(values))
    found = [Level(float(-values[i]), int(shown[i])) for i in kept]
    if not found or found[-1].edges < len(contents.edges):
        found.append(Level(None, len(contents.edges)))
    return found


def opening(stops: list[Level]) -> int:
    """The stop a page opens with: the last one with at most `OPENS` edges, or the first."""
    return max((i for i, stop in enumerate(stops) if stop.edges <= OPENS), default=0)
