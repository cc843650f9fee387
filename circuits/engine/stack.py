"""Several cells side by side in one batch: every cell gets a block of rows, one per pair.

Edits of one site and kind become one edit whose parameters differ from row to row, so that a hook costs the same
however many cells there are. Rows of other blocks are masked out: nothing of one cell reaches another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.edits import Bound
from circuits.engine.transform import per_pair
from circuits.sites import Site

_Key = tuple[Any, ...]


def stacked(cells: Sequence[tuple[Bound, ...]], n_pairs: int) -> tuple[Bound, ...]:
    """The bound cells as one, over len(cells) · n_pairs rows: first every pair of cell 0, then every pair of cell 1.

    Edits keep the order that each cell gave them.
    """
    found: dict[_Key, dict[int, Bound]] = {}
    for c, cell in enumerate(cells):
        seen: Counter[Site] = Counter()
        for bound in cell:
            turn = seen[bound.site]  # a cell's edits of one site act in its order; other cells have other rows
            has = (bound.value is None, bound.keys is None)
            kind = (bound.index, bound.leaves, type(bound.intervention), bound.everywhere, *has)
            found.setdefault((turn, bound.site, *kind), {})[c] = bound
            seen[bound.site] += 1
    return tuple(_merged(found[key], len(cells), n_pairs) for key in sorted(found, key=lambda key: key[0]))


def _merged(of: dict[int, Bound], n_cells: int, n_pairs: int) -> Bound:
    first = next(iter(of.values()))
    given = {c: per_pair(bound.intervention, n_pairs) for c, bound in of.items()}
    some = next(iter(given.values()))  # stands in where a cell has no such edit: masked out, never seen
    parts = {name: torch.cat([given.get(c, some)[name] for c in range(n_cells)]) for name in some}
    intervention = _with(first.intervention, parts)

    def rows(read: Callable[[Bound], Tensor]) -> Tensor:
        blank = torch.zeros_like(read(first))
        return torch.cat([read(of[c]) if c in of else blank for c in range(n_cells)])

    return replace(
        first, intervention=intervention, mask=rows(lambda b: b.mask),
        keys=None if first.keys is None else rows(_keys),
        value=None if first.value is None else rows(lambda b: _value(b, n_pairs)),
    )  # fmt: skip


def _keys(bound: Bound) -> Bool[Tensor, "pair key"]:
    return bound.mask if bound.keys is None else bound.keys


def _value(bound: Bound, n_pairs: int) -> Float[Tensor, "pair pos ..."]:
    value = torch.zeros(()) if bound.value is None else bound.value
    return value.expand(n_pairs, *value.shape[1:])


def _with(intervention: Any, parts: dict[str, Tensor]) -> Any:
    """The intervention with its parameters one per row, not checked again: what was a unit vector still is one."""
    new = object.__new__(type(intervention))
    for f in fields(intervention):
        object.__setattr__(new, f.name, parts.get(f.name, getattr(intervention, f.name)))
    return new
