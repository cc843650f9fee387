"""Which cells of a sweep are recomputed the slow way: a few at random, and one of every sort.

A sort is a kind of site on one of the sweep's two paths (single, several). Where it can be, a cell is taken on a pair
whose edited columns reach its first difference: before it a patch from the source run does nothing, done or not.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.edits import columns_of
from circuits.interventions import Cell, Columns, Intervention, Patch, Where
from circuits.prompts.align import TokenPairs
from circuits.sites import SiteKind

Path = Literal["single", "several", "neither"]
Sort = tuple[SiteKind, Path]


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """Cells to recompute, each on one pair, and what the sweep found there."""

    cells: list[Cell]
    on: list[int]
    value: Float[Tensor, " cell"]


def sampled(tokens: TokenPairs, cells: Sequence[Cell]) -> tuple[list[int], list[int]]:
    """Which cells to recompute, each on which pair: one in 400 but at least two, so that it stays a small share.

    One of every sort is among them, if need be beyond that number. No pair comes twice where another one would do.
    """
    rng = random.Random(0)  # noqa: S311  not for secrets
    look = _Look(tokens)
    seen = [look.at(cell) for cell in cells]
    members: dict[Sort, list[int]] = {}
    for c, found in enumerate(seen):
        for sort in found.sorts:
            members.setdefault(sort, []).append(c)
    run = {kind for kind, path in members if path != "neither"}
    needed = [sort for sort in members if sort[1] != "neither" or sort[0] not in run]
    drawn: list[int] = []
    for sort in sorted(needed, key=lambda s: (len(members[s]), s)):  # the rarest first: its cells may be of others too
        if not any(sort in seen[c].sorts for c in drawn):
            reaching = [c for c in members[sort] if seen[c].pairs]
            drawn.append(rng.choice(reaching or members[sort]))
    missing = min(len(cells), max(2, min(8, len(cells) // 400))) - len(drawn)
    left = sorted(set(range(len(cells))) - set(drawn))
    for pool in ([c for c in left if seen[c].pairs], [c for c in left if not seen[c].pairs]):
        more = rng.sample(pool, max(0, min(missing, len(pool))))
        drawn, missing = drawn + more, missing - len(more)
    on: list[int] = []
    for c in drawn:
        pairs = seen[c].pairs or range(tokens.n_pairs)
        on.append(rng.choice([pair for pair in pairs if pair not in on] or pairs))
    return drawn, on


@final
@dataclass(frozen=True)
class _Found:
    """Of one cell: its sorts, and the pairs on which it may change something."""

    sorts: frozenset[Sort]
    pairs: tuple[int, ...]


@final
class _Look:
    """Looks at cells; those that differ in layer or head alone are looked at once."""

    def __init__(self, tokens: TokenPairs) -> None:
        self._tokens, self._found = tokens, dict[Hashable, _Found]()

    def at(self, cell: Cell) -> _Found:
        key = tuple((type(i), _from_source(i), i.site.kind, _hashable(i.positions)) for i in cell)
        if key not in self._found:
            self._found[key] = self._at(cell)
        return self._found[key]

    def _at(self, cell: Cell) -> _Found:
        tokens, column = self._tokens, torch.arange(self._tokens.n_pos)
        pure = all(_from_source(i) for i in cell)
        run = column >= (tokens.first_difference if pure else 0)  # the columns that the sweep runs of it
        edited = [(i, columns_of(tokens, i.positions) & run) for i in cell]
        live = [(i, mask) for i, mask in edited if mask.any()]
        path: Path = "neither" if not live else "single" if len(live) == 1 and _is_single(*live[0]) else "several"
        start = tokens.subject[:, None] if pure else torch.zeros(1, 1)
        changed = [(mask & (column >= start)).any(1) for _, mask in live]
        pairs = torch.stack(changed).any(0).nonzero()[:, 0].tolist() if changed else []
        return _Found(frozenset((i.site.kind, path) for i, _ in live or edited), tuple(pairs))


def _is_single(i: Intervention, mask: Bool[Tensor, "pair pos"]) -> bool:
    """Whether the sweep takes it as one patch of one column of each pair, made within the blocks."""
    return isinstance(i, Patch) and i.site.kind != "embed" and int(mask.sum(-1).max()) == 1


def _from_source(i: Intervention) -> bool:
    return isinstance(i, Patch) and i.value is None


def _hashable(where: Where) -> Hashable:
    return where if isinstance(where, str | int | Columns) else tuple(where)
