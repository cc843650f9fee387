"""Receivers given what an edge brings them: every edge a row of one wavefront, from its receiver to the metric.

Queries, keys and values are replaced within their block. What an MLP gives is added at once to the residual that enters the
next block, since nothing else in its block follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.batches import in_batches, rows_at_once
from circuits.engine.progress import advance, listening
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay, Rows
from circuits.engine.window import At, pack
from circuits.model.hooks import Edit
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Given:
    """What the receiver of one edge becomes, on the columns that are run; `edge` says where the metric goes."""

    edge: int
    site: Site
    """One head's q, k or v, or mlp_out."""
    value: Float[Tensor, "pair pos size"]

    @property
    def joins(self) -> int:
        """The layer whose entering residual this row departs at."""
        return self.site.layer + (self.site.kind == "mlp_out")


@final
class Receivers:
    """Takes edges as they come, and runs them whenever a batch is full: values of many edges are never held at once."""

    def __init__(
        self, replay: Replay, readout: Readout, where: Bool[Tensor, "pair pos"], start: int,
        value: Float[Tensor, "cell pair"],
    ) -> None:  # fmt: skip
        self._replay, self._readout, self._value = replay, readout, value
        self._where, self._start = where.to(replay.model.device)[:, start:], start
        n_pairs, n_pos = replay.base.tokens.shape
        self.at_once = rows_at_once(replay.model, n_pairs, n_pos, n_pos - start, replay.max_memory)
        self._waiting: list[Given] = []

    def add(self, given: Sequence[Given]) -> None:
        """Take some more, and run what fills whole batches."""
        self._waiting += given
        full = len(self._waiting) // self.at_once * self.at_once
        self._run(full)

    def finish(self) -> None:
        """Run what is left."""
        self._run(len(self._waiting))

    def _run(self, n: int) -> None:
        if n:
            waiting = sorted(self._waiting, key=lambda g: g.joins)
            self._waiting = waiting[n:]
            with listening(lambda _: None):  # of these alone
                in_batches(waiting[:n], self.at_once, self._measure)
            advance(n / len(self._value))

    def _measure(self, batch: list[Given]) -> None:
        windows = pack([self._start], self._replay.last + 1)

        def enter(layer: int, rows: slice) -> Rows:
            return torch.stack([self._entering(layer, given) for given in batch[rows]])

        edits = _Replaced(batch, self._where, self._start)
        final = self._replay.propagate(windows, [given.joins for given in batch], enter, edits)
        for given, row in zip(batch, self._readout(final[:, :, 0]), strict=True):
            self._value[given.edge] = row

    def _entering(self, layer: int, given: Given) -> Float[Tensor, "pair pos d_model"]:
        base = self._replay.base
        x = base.resid[layer][:, self._start :]
        if given.site.kind != "mlp_out":
            return x
        return x + torch.where(self._where[..., None], given.value - base.seen[given.site][:, self._start :], 0)


@final
@dataclass(frozen=True, eq=False)
class _Replaced:
    """Row i has the query, key or value of one head replaced where `where` says, on columns from `start`."""

    rows: list[Given]
    where: Bool[Tensor, "pair pos"]
    start: int

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        del layer, at
        return x

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        here: dict[Site, list[int]] = {}
        for i, given in enumerate(self.rows[:n_rows]):
            if given.site.layer == layer and given.site.kind != "mlp_out":
                here.setdefault(given.site.whole, []).append(i)
        columns = at.columns - self.start

        def edit_of(rows: list[int]) -> Edit:
            heads = [self.rows[i].site.index for i in rows]
            values = torch.stack([self.rows[i].value for i in rows])[:, :, columns]

            def edit(activation: Tensor) -> Tensor:
                changed = activation.unflatten(0, (n_rows, -1)).clone()
                old = changed[rows, :, :, heads]
                changed[rows, :, :, heads] = torch.where(self.where[:, columns, None], values, old)
                return changed.flatten(0, 1)

            return edit

        return {site: edit_of(rows) for site, rows in here.items()}
