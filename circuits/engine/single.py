"""Cells that patch one site at one position: the fast path.

Every such patch is one primitive: the residual entering layer k at column p becomes v. A residual site gives v at once;
a site inside block k − 1 acts on its own column only within that block, so one call of that block on the patched
columns alone gives v for all of them (all heads, say). From there all rows of all columns travel together. Keys and
values are the exception: later columns read them within their own block, so their rows join there and are edited in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from circuits.engine.batches import in_batches, rows_at_once
from circuits.engine.capture import Run
from circuits.engine.edits import Bound, apply
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay, Rows
from circuits.engine.window import At, Windows, pack
from circuits.model.hooks import Edit
from circuits.sites import ORDER, Site

_READ_LATER = ("k", "v")
"""Sites that other columns read within their own block."""
_FULL_ENOUGH = 0.8
"""Share of packed slots that carry a patch, below which columns are run one by one instead."""


@final
@dataclass(frozen=True, eq=False)
class Single:
    """One cell at one column; `cell` says where its value goes."""

    cell: int
    bound: Bound
    column: int

    @property
    def joins(self) -> int:
        """The layer whose entering residual the patch changes; that of its own block for keys and values."""
        return self.bound.site.layer + (self.bound.site.kind not in ("resid_pre", *_READ_LATER))


@final
@dataclass(frozen=True, eq=False)
class _Row:
    """One row of packed windows: at most one patch per window, all joining at the same layer."""

    joins: int
    patches: tuple[Single | None, ...]


@final
@dataclass(frozen=True, eq=False)
class _Patches:
    """Edits that make the patches of some kinds of site, each at its place on the packed axis of a call."""

    rows: Sequence[_Row]
    kinds: frozenset[str]
    places: Sequence[int]
    """Where the first column of each window stands."""

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        del layer, at
        return x

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        here = [
            (i, w, patch.bound)
            for i, row in enumerate(self.rows[:n_rows])
            for w, patch in enumerate(row.patches)
            if patch is not None and patch.bound.site.layer == layer and patch.bound.site.kind in self.kinds
        ]

        def edit_of(site: Site) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                rows = activation.unflatten(0, (n_rows, -1)).clone()
                for i, w, bound in here:
                    if bound.site == site:
                        p = self.places[w]
                        rows[i, :, p : p + 1] = apply(bound, rows[i, :, p : p + 1], at.only(p))
                return rows.flatten(0, 1)

            return edit

        return {site: edit_of(site) for site in {bound.site for _, _, bound in here}}


def run_singles(
    replay: Replay, singles: Sequence[Single], readout: Readout, source: Run, value: Float[Tensor, "cell pair"]
) -> None:
    """Fill `value` at every single's cell, for the pairs whose patched column it is.

    What follows without running is not run: a patch that nothing reads, or that changes nothing, leaves the base
    run's value; one that makes the whole residual the source's gives the source run's.
    """
    todo: dict[int, list[Single]] = {}
    for single in singles:
        known = _known(single, replay, source)
        if known is None:
            todo.setdefault(single.column, []).append(single)
        elif known is source:
            here = single.bound.mask[:, single.column]
            value[single.cell, here] = readout(source.resid[-1][None, :, -1])[0, here]
    together = _rows(todo)
    slots = len(together) * len(todo)
    full = slots > 0 and sum(map(len, todo.values())) / slots >= _FULL_ENOUGH
    for columns in [sorted(todo)] if full else [[p] for p in sorted(todo)]:
        windows = pack(columns, replay.last + 1)
        _run(replay, windows, _rows({p: todo[p] for p in columns}), readout, value)


def _rows(todo: Mapping[int, Sequence[Single]]) -> list[_Row]:
    """Patches of each column laid into rows, layer by layer, windows in ascending order of column."""
    rows: list[_Row] = []
    for layer in sorted({s.joins for column in todo.values() for s in column}):
        here = [[s for s in todo[p] if s.joins == layer] for p in sorted(todo)]
        rows += [
            _Row(layer, tuple(column[i] if i < len(column) else None for column in here))
            for i in range(max(map(len, here)))
        ]
    return rows


def _run(
    replay: Replay, windows: Windows, rows: list[_Row], readout: Readout, value: Float[Tensor, "cell pair"]
) -> None:
    n_pairs, n_pos = replay.base.tokens.shape

    def run(batch: list[_Row]) -> None:
        def enter(layer: int, joining: slice) -> Rows:
            return _enter(replay, windows, batch[joining], layer)

        read_later = _Patches(batch, frozenset(_READ_LATER), windows.begins.tolist())
        final = replay.propagate(windows, [row.joins for row in batch], enter, read_later)
        out = readout(final.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(batch), -1))
        for row, measured in zip(batch, out, strict=True):
            for w, patch in enumerate(row.patches):
                if patch is not None:
                    here = patch.bound.mask[:, patch.column]
                    value[patch.cell, here] = measured[w, here]

    in_batches(rows, rows_at_once(replay.model, n_pairs, n_pos, len(windows), replay.max_memory), run)


def _known(single: Single, replay: Replay, source: Run) -> Run | None:
    """The run, base or source, that a patch is bound to reproduce exactly; None where it has to be run."""
    base, bound = replay.base, single.bound
    if single.joins == replay.n_layers and single.column != replay.last:
        return base
    if bound.site.kind != "resid_pre" or bound.value is not source.resid[bound.site.layer]:
        return None
    differs = (bound.value != base.resid[bound.site.layer]).any(-1).any(0)
    if not differs[single.column]:
        return base
    return source if int(differs.sum()) == 1 else None


def _enter(replay: Replay, windows: Windows, rows: Sequence[_Row], layer: int) -> Rows:
    """The residual entering `layer`, with each row's patches made at the first column of their windows."""
    resid = replay.base.resid
    x = resid[layer][:, windows.columns].repeat(len(rows), 1, 1, 1)
    after: Rows | None = None
    if any(p is not None and p.bound.site.layer < layer for row in rows for p in row.patches):
        # one call of the block below, on the patched columns alone: each is its own window of width one
        first = windows.firsts
        before = resid[layer - 1][:, first.columns].expand(len(rows), -1, -1, -1)
        within = _Patches(rows, frozenset(ORDER) - {"resid_pre", *_READ_LATER}, range(len(first)))
        after = replay.block(layer - 1, before, first, within)
    for i, row in enumerate(rows):
        for w, patch in enumerate(row.patches):
            p = int(windows.begins[w])
            if patch is None:
                continue
            if patch.bound.site.kind == "resid_pre":
                x[i, :, p : p + 1] = apply(patch.bound, x[i, :, p : p + 1], At(windows.columns[p : p + 1]))
            elif after is not None and patch.bound.site.layer < layer:
                x[i, :, p] = after[i, :, w]
    return x
