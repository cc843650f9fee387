"""Cells of several interventions or positions: replayed from their first layer and first column, edits in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.batches import in_batches, rows_at_once
from circuits.engine.capture import embedded
from circuits.engine.edits import Bound, apply
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay, Rows
from circuits.engine.window import At, pack
from circuits.model.hooks import Edit
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Several:
    """A cell of several interventions or positions."""

    cell: int
    bound: tuple[Bound, ...]

    @property
    def column(self) -> int:
        return min(b.first for b in self.bound if b.first is not None)

    @property
    def joins(self) -> int:
        return min(b.stage for b in self.bound)


@final
@dataclass(frozen=True, eq=False)
class _CellEdits:
    """Row i carries all edits of cell i."""

    cells: list[Several]

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        return self._edit(Site("resid_pre", layer), x, at)

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        found = {
            b.site
            for cell in self.cells[:n_rows]
            for b in cell.bound
            if b.site.layer == layer and b.site.kind not in ("resid_pre", "embed")
        }

        def edit_of(site: Site) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                return self._edit(site, activation.unflatten(0, (n_rows, -1)), at).flatten(0, 1)

            return edit

        return {site: edit_of(site) for site in found}

    def embedding(self, activation: Tensor) -> Tensor:
        """Edit the embeddings of all rows, on all columns."""
        at = At(torch.arange(activation.shape[1]))
        return self._edit(Site("embed"), activation.unflatten(0, (len(self.cells), -1)), at).flatten(0, 1)

    def _edit(self, site: Site, x: Tensor, at: At) -> Tensor:
        todo = [(row, b) for row, cell in enumerate(self.cells[: len(x)]) for b in cell.bound if b.site == site]
        if not todo:
            return x
        x = x.clone()
        for row, bound in todo:
            x[row] = apply(bound, x[row], at)
        return x


def run_several(replay: Replay, cells: Sequence[Several], readout: Readout, value: Float[Tensor, "cell pair"]) -> None:
    """Fill `value` at every cell."""
    base = replay.base
    n_pairs, n_pos = base.tokens.shape
    for p in sorted({cell.column for cell in cells}):
        jobs = sorted((cell for cell in cells if cell.column == p), key=lambda c: c.joins)

        def run(batch: list[Several], p: int = p) -> None:
            def enter(layer: int, rows: slice) -> Rows:
                joining = batch[rows]
                if any(b.site.kind == "embed" for cell in joining for b in cell.bound):
                    return _embedded(replay, joining)[:, :, p:]
                return base.resid[layer][:, p:].expand(len(joining), -1, -1, -1)

            final = replay.propagate(pack([p], replay.last + 1), [c.joins for c in batch], enter, _CellEdits(batch))
            for cell, row in zip(batch, readout(final[:, :, 0]), strict=True):
                value[cell.cell] = row

        in_batches(jobs, rows_at_once(replay.model, n_pairs, n_pos, n_pos - p, replay.max_memory), run)


def _embedded(replay: Replay, cells: list[Several]) -> Rows:
    """The residual entering block 0 under each cell's edits of the embeddings."""
    base, n = replay.base, len(cells)
    mask, tokens = base.mask.repeat(n, 1), base.tokens.repeat(n, 1)
    return embedded(replay.model, mask, tokens, _CellEdits(cells).embedding).unflatten(0, (n, -1))
