"""Attention weights computed anew where queries or keys are others, by the block's own modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.replay import Replay, Rows
from circuits.engine.window import At, pack
from circuits.model import Model
from circuits.model.hooks import Edit
from circuits.sites import Site


def pattern_under(
    model: Model, base: Run, site: Site, value: Float[Tensor, "pair pos _ d_head"]
) -> Float[Tensor, "pair pos head key"]:
    """Every head's attention weights in a run whose queries or keys at one whole site are `value`.

    No head's weights depend on another's query, so one call serves all heads.
    """
    replay = Replay(model, base)
    looking = _Looking(site, value, [])
    replay.block(site.layer, base.resid[site.layer][None], pack([0], replay.last + 1), looking)
    return looking.seen[0]


@final
@dataclass(frozen=True, eq=False)
class _Looking:
    """Puts queries or keys in place and keeps the attention weights."""

    site: Site
    value: Float[Tensor, "pair pos _ d_head"]
    seen: list[Tensor]

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        del layer, at
        return x

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        del n_rows

        def put(activation: Tensor) -> Tensor:
            return self.value.to(activation)

        def look(pattern: Tensor) -> None:
            self.seen.append(at.by_column(pattern))

        return {self.site: put, Site("pattern", layer): look}
