"""The run patched from, computed by resuming the run patched into.

Before the first token that differs the two runs are the same, so only what follows is run: the base run with every
differing embedding replaced *is* the source run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.engine.capture import Run, embedded
from circuits.engine.replay import Replay, Rows
from circuits.engine.sound import require_finite
from circuits.engine.window import At, pack
from circuits.model.hooks import Edit
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class _Reading:
    """Edits that change nothing and keep what they see."""

    wanted: frozenset[Site]
    seen: dict[Site, Tensor]

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        del layer, at
        return x

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        del n_rows

        def keep(site: Site) -> Edit:
            def read(activation: Tensor) -> None:
                self.seen[site] = at.by_column(activation) if site.kind == "pattern" else activation

            return read

        return {site: keep(site) for site in self.wanted if site.layer == layer and site.kind != "embed"}


def _keep(seen: dict[Site, Tensor], site: Site, activation: Tensor) -> None:
    seen[site] = activation


def source_of(replay: Replay, tokens: Int[Tensor, "pair pos"], sites: Iterable[Site], start: int) -> Run:
    """The run of `tokens`, which equal the base run's before column `start`; sites as captured in the base run."""
    base, model = replay.base, replay.model
    tokens = tokens.to(model.device)
    reading = _Reading(frozenset(sites), {})
    windows = pack([start], replay.last + 1)
    embed = Site("embed")
    early: dict[Site, Tensor] = {}
    whole = embedded(model, base.mask, tokens, partial(_keep, early, embed) if embed in reading.wanted else None)
    resid, x = [whole], whole[None, :, start:]
    for layer in range(replay.n_layers):
        x = replay.block(layer, x, windows, reading)
        resid.append(torch.cat([base.resid[layer + 1][:, :start], x[0]], 1))
    seen = {site: torch.cat([base.seen[site][:, :start], after], 1) for site, after in reading.seen.items()}
    seen |= early
    require_finite(model, tuple(resid), tokens, base.mask)
    empty = base.last_logits.new_empty(len(tokens), 0)
    return Run(tokens=tokens, mask=base.mask, resid=tuple(resid), calls=(), kv=(), seen=seen, last_logits=empty)
