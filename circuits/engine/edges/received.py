"""What parts of a block make of any residual stream, by the block's own modules.

The norm in front of a receiver has the scale of what it is given: nothing is linearised. Only columns from `start` are
run, since no row differs from the base run before it, and a block is left as soon as all that is looked for is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.replay import Replay, Rows
from circuits.engine.window import At, pack
from circuits.model.hooks import Edit
from circuits.sites import Site, SiteKind

Part = Literal["attention", "mlp"]


def received(
    replay: Replay, layer: int, part: Part, x: Rows, start: int
) -> dict[SiteKind, Float[Tensor, "row pair pos ..."]]:
    """From the residual that a part of a block reads, on columns from `start`, what it computes there.

    attention: q, k and v, [row, pair, pos, head, d_head]; every head sees the same row. mlp: mlp_out, [row, pair, pos,
    d_model], through its post-norm where it has one. As the sites of the same names (before rotation, for q and k).
    """
    if part == "attention":
        return _seen(replay, layer, ("q", "k", "v"), x, start, silenced=False)
    return _seen(replay, layer, ("mlp_out",), x, start, silenced=True)


def attended(replay: Replay, layer: int, x: Rows, start: int) -> tuple[Float[Tensor, "row pair pos head d_head"], Rows]:
    """From the residual entering a block, on columns from `start`: the z of every head, and attn_out.

    Keys and values before `start` are the base run's.
    """
    seen = _seen(replay, layer, ("z", "attn_out"), x, start, silenced=False)
    return seen["z"], seen["attn_out"]


def _seen(
    replay: Replay, layer: int, kinds: tuple[SiteKind, ...], x: Rows, start: int, *, silenced: bool
) -> dict[SiteKind, Float[Tensor, "row pair pos ..."]]:
    looking = _Looking(kinds, silenced, {})
    with suppress(_AllSeenError):
        replay.block(layer, x, pack([start], replay.last + 1), looking)
    return {kind: seen.unflatten(0, x.shape[:2]) for kind, seen in looking.seen.items()}


class _AllSeenError(Exception):
    """Leaves a block of which nothing more is looked for; one that stays silent is an error of the replay's."""


@final
@dataclass(frozen=True, eq=False)
class _Looking:
    """Keeps what a part computes. For an MLP what enters its block is what it reads: attention is silenced."""

    kinds: tuple[SiteKind, ...]
    silenced: bool
    seen: dict[SiteKind, Tensor]

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        del layer, at
        return x

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        del n_rows, at

        def keep(kind: SiteKind) -> Edit:
            def look(activation: Tensor) -> None:
                self.seen[kind] = activation
                if len(self.seen) == len(self.kinds):
                    raise _AllSeenError

            return look

        looks = {Site(kind, layer): keep(kind) for kind in self.kinds}
        return {Site("attn_out", layer): torch.zeros_like, **looks} if self.silenced else looks
