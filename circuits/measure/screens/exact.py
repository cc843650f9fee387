"""Exact effects of nodes, for `verify`: the engine's sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from circuits.engine import sweep
from circuits.engine.edges import Edge
from circuits.engine.sweep import Direction
from circuits.errors import SiteError
from circuits.interventions import Cell, Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.sites import parse

Exact = Callable[[Sequence[str | Edge]], Float[Tensor, "pair cell"]]
"""Names -> the measured change of the metric when each is replaced, pair by pair."""


def exact_nodes(
    model: Model, tokens: TokenPairs, metric: Metric, *, direction: Direction = "noise", positions: Positions = "all"
) -> Exact:
    """What `verify` asks for nodes: patched metric − base metric, as the screen of the same arguments estimates it.

    What it returns raises SiteError for an edge.
    """

    def effects(names: Sequence[str | Edge]) -> Float[Tensor, "pair cell"]:
        cells: list[Cell] = []
        for name in names:
            if not isinstance(name, str):
                raise SiteError(f"{name.label} is an edge; give verify the exact effects of edges, from path patching")
            cells.append((Patch(parse(name), positions),))
        swept = sweep(model, tokens, metric, cells, direction=direction)
        return (swept.value - swept.base).T.contiguous()

    return effects
