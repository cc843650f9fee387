"""Cells that patch one site at one position: the fast path.

Every such patch is one primitive: the residual entering layer k at column p becomes v. A residual site gives v at once;
a site inside block k − 1 acts on its own column only within that block, so one call of that block on the patched
columns alone gives v for all of them (all heads, say). From there all rows of all columns travel together. Keys and
values are the exception: later columns read them within their own block, so their rows join there and are edited in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.batches import in_batches, rows_at_once
from circuits.engine.capture import Run
from circuits.engine.edits import Bound, apply
from circuits.engine.known import Compared, Known
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay, Rows
from circuits.engine.window import At, Windows, pack
from circuits.model.hooks import Edit
from circuits.sites import ORDER, Site

_READ_LATER = ("k", "v")
"""Sites that other columns read within their own block."""
_FULL_ENOUGH = 0.25
"""Share of the products of query and key in a packed call that are seen, below which columns are packed apart."""


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
        return self.bound.site.layer + self.within

    @property
    def within(self) -> bool:
        """Whether it acts on its own column within the block before, which is then run there."""
        return self.bound.site.kind not in ("resid_pre", *_READ_LATER)

    def on(self, pairs: Bool[Tensor, " pair"]) -> Single:
        """The same patch on some pairs alone."""
        mask = self.bound.mask & pairs[:, None].to(self.bound.mask.device)
        return replace(self, bound=replace(self.bound, mask=mask))


@final
@dataclass(frozen=True, eq=False)
class _Row:
    """One row of packed windows, each with its patch, in ascending order of column: all join at the same layer."""

    joins: int
    within: bool
    patches: tuple[Single, ...]


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
            if patch.bound.site.layer == layer and patch.bound.site.kind in self.kinds
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
    """Fill `value`, which holds the base run's, at every single's cell, for the pairs whose patched column it is.

    What follows without running is not run: a patch that nothing reads, or that changes nothing, leaves the base
    run's value; one that makes the whole residual the source's gives the source run's.
    """
    compared = Compared(replay.base, source)
    todo: list[Single] = []
    replaced: list[tuple[int, Bool[Tensor, " pair"]]] = []
    for single in singles:
        here = single.bound.mask[:, single.column].cpu()
        known = _known(single, replay, compared)
        if known is None:
            todo.append(single)
            continue
        if (here & known.source).any():
            replaced.append((single.cell, (here & known.source).to(value.device)))
        left = here & ~known.base & ~known.source
        if left.any():
            todo.append(single.on(left))
    if replaced:
        of_source = readout(source.resid[-1][None, :, -1])[0]
        for cell, here in replaced:
            value[cell, here] = of_source[here]
    for columns, rows in _layouts(todo, replay.last + 1).items():
        _run(replay, pack(columns, replay.last + 1), rows, readout, value)


def _known(single: Single, replay: Replay, compared: Compared) -> Known | None:
    """What follows about a patch without running it; None where nothing does."""
    if single.joins == replay.n_layers and single.column != replay.last:  # nothing reads it
        everywhere = torch.ones(len(single.bound.mask), dtype=torch.bool)
        return Known(everywhere, ~everywhere)
    return compared.known(single.bound, single.column)


def _layouts(singles: Sequence[Single], stop: int) -> dict[tuple[int, ...], list[_Row]]:
    """Patches laid into rows, layer by layer; rows of the same columns together, so that no window is without a patch."""
    stages: dict[tuple[int, bool], dict[int, list[Single]]] = {}
    for single in singles:
        stages.setdefault((single.joins, single.within), {}).setdefault(single.column, []).append(single)
    layouts: dict[tuple[int, ...], list[_Row]] = {}
    for columns in _together(sorted({single.column for single in singles}), stop):
        for stage in sorted(stages):
            for across in zip_longest(*(stages[stage].get(p, []) for p in columns)):
                patches = tuple(patch for patch in across if patch is not None)
                layouts.setdefault(tuple(patch.column for patch in patches), []).append(_Row(*stage, patches))
    return layouts


def _together(columns: Sequence[int], stop: int) -> list[list[int]]:
    """Ascending columns, in the groups whose windows are packed side by side.

    A packed query is multiplied with all packed keys and those of the base run, but sees those up to its own column alone.
    """
    groups: list[list[int]] = []
    for p in columns:
        packed = [*groups[-1], p] if groups else [p]
        width = sum(stop - start for start in packed)
        seen = sum(stop * (stop + 1) - start * (start + 1) for start in packed) / 2
        if groups and seen >= _FULL_ENOUGH * width * (p + width):
            groups[-1].append(p)
        else:
            groups.append([p])
    return groups


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
            for patch, found in zip(row.patches, measured, strict=True):
                here = patch.bound.mask[:, patch.column]
                value[patch.cell, here] = found[here]

    in_batches(rows, rows_at_once(replay.model, n_pairs, n_pos, len(windows), replay.max_memory), run)


def _enter(replay: Replay, windows: Windows, rows: Sequence[_Row], layer: int) -> Rows:
    """The residual entering `layer`, with each row's patches made at the first column of their windows."""
    resid, begins = replay.base.resid, windows.begins
    x = resid[layer][:, windows.columns].repeat(len(rows), 1, 1, 1)
    within = [i for i, row in enumerate(rows) if row.within]
    if within:
        # one call of the block below, on the patched columns alone: each is its own window of width one
        first = windows.firsts
        before = resid[layer - 1][:, first.columns].expand(len(within), -1, -1, -1)
        edits = _Patches([rows[i] for i in within], frozenset(ORDER) - {"resid_pre", *_READ_LATER}, range(len(first)))
        for i, after in zip(within, replay.block(layer - 1, before, first, edits), strict=True):
            x[i][:, begins] = after
    for i, row in enumerate(rows):
        for p, patch in zip(begins.tolist(), row.patches, strict=True):
            if patch.bound.site.kind == "resid_pre":
                x[i, :, p : p + 1] = apply(patch.bound, x[i, :, p : p + 1], At(windows.columns[p : p + 1]))
    return x
