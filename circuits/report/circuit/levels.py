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
"""A page opens with at most so many edges drawn, where its first stop has no more."""


@final
@dataclass(frozen=True)
class Level:
    """One stop."""

    threshold: float | None
    """Edges with |effect| of at least this are shown; None for all, also those without a measured effect."""
    edges: int
    """Edges of the page that it shows; those of one measurement count once."""
    drawn: int
    """The same, each counted."""


def levels(contents: Contents) -> list[Level]:
    """The stops, from few edges to all; at least one."""
    sized = {edge.measurement: abs(edge.effect) for edge in contents.edges if edge.effect is not None}
    each = np.array([abs(edge.effect) for edge in contents.edges if edge.effect is not None])
    values, counts = np.unique(-np.array(list(sized.values())), return_counts=True)
    shown, drawn = np.cumsum(counts), [int((each >= -value).sum()) for value in values]
    if len(values) > STOPS:
        wanted = np.geomspace(shown[0], shown[-1], STOPS)
        kept = np.unique(np.searchsorted(shown, wanted).clip(max=len(values) - 1))
    else:
        kept = np.arange(len(values))
    found = [Level(float(-values[i]), int(shown[i]), drawn[i]) for i in kept]
    if not found or found[-1].edges < contents.measured:
        found.append(Level(None, contents.measured, len(contents.edges)))
    return found


def opening(stops: list[Level]) -> int:
    """The stop a page opens with: the last one that draws at most `OPENS` edges, or the first."""
    return max((i for i, stop in enumerate(stops) if stop.drawn <= OPENS), default=0)
