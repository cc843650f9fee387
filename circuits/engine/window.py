"""Which columns of the prompts a replay runs, packed side by side.

An edit at column p changes nothing before p, so its row needs columns p … last alone, and reads the columns before p
from the base run's keys and values. Rows that start at different p are packed into one sequence of windows

    p=13: 13 14 … 19 | p=14: 14 … 19 | … | p=19: 19

under one explicit mask: a query sees the base run's keys before its window and its own window up to itself. Few large
matrix products replace many small ones; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class At:
    """Which columns a call sees, and, of a pattern, where the key of each column stands among those it is shown."""

    columns: Int[Tensor, " pos"]
    keys: Int[Tensor, "pos key"] | None = None
    """For every packed query and column; one beyond the last key where the query sees none. None: keys are columns."""

    def only(self, place: int) -> At:
        """One place of the packed axis alone."""
        keys = None if self.keys is None else self.keys[place : place + 1]
        return At(self.columns[place : place + 1], keys)

    def by_column(self, pattern: Float[Tensor, "*row pos head packed"]) -> Float[Tensor, "*row pos head key"]:
        """A pattern over packed keys as one over columns, zero where nothing is seen."""
        if self.keys is None:
            return pattern
        return torch.nn.functional.pad(pattern, (0, 1)).gather(-1, self._index(pattern))

    def packed(
        self, by_column: Float[Tensor, "*row pos head key"], pattern: Float[Tensor, "*row pos head packed"]
    ) -> Float[Tensor, "*row pos head packed"]:
        """The same pattern with what `by_column` says, over packed keys again."""
        if self.keys is None:
            return by_column
        room = torch.nn.functional.pad(pattern, (0, 1))
        return room.scatter(-1, self._index(pattern), by_column)[..., :-1]

    def _index(self, pattern: Tensor) -> Tensor:
        if self.keys is None:
            raise ValueError("keys are columns already")
        return self.keys[:, None].to(pattern.device).expand(*pattern.shape[:-1], -1)


@final
@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of columns `starts[w] … stops[w] - 1`, laid end to end in one packed axis."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @cached_property
    def columns(self) -> Int[Tensor, " pos"]:
        """The column of every packed token."""
        return torch.cat([torch.arange(p, q) for p, q in zip(self.starts, self.stops, strict=True)])

    @cached_property
    def owner(self) -> Int[Tensor, " pos"]:
        """The window of every packed token."""
        return torch.arange(len(self.starts)).repeat_interleave(self._widths)

    @cached_property
    def ends(self) -> Int[Tensor, " group"]:
        """Where each window's last token stands in the packed axis."""
        return self._widths.cumsum(0) - 1

    @cached_property
    def begins(self) -> Int[Tensor, " group"]:
        """Where each window's first token stands in the packed axis."""
        return self._widths.cumsum(0) - self._widths

    @property
    def _widths(self) -> Int[Tensor, " group"]:
        return torch.tensor(self.stops) - torch.tensor(self.starts)

    @property
    def firsts(self) -> Windows:
        """The first column of every window, each a window of its own."""
        return Windows(self.starts, tuple(p + 1 for p in self.starts))

    def at(self, queries: Int[Tensor, " query"], prefix: int, n_pos: int) -> At:
        """What a call of a block on packed `queries` sees, of prompts of `n_pos` columns."""
        columns, owner = self.columns[queries], self.owner[queries]
        start, begin = torch.tensor(self.starts)[owner, None], self.begins[owner, None]
        key = torch.arange(n_pos)[None]
        own = torch.where(key <= columns[:, None], prefix + begin + key - start, prefix + len(self))
        return At(columns, torch.where(key < start, key, own))

    def __len__(self) -> int:
        """Packed tokens."""
        return len(self.columns)

    def mask(
        self, base: Float[Tensor, "row one pos pos"], queries: Int[Tensor, " query"], prefix: int
    ) -> Float[Tensor, "row one query key"]:
        """The additive mask of packed `queries` over the base run's first `prefix` keys, then all packed keys.

        `base` is the mask the model itself used, so that padding and sliding windows hold as they did there.
        """
        lowest = torch.finfo(base.dtype).min
        device = base.device
        rows, columns = self.columns[queries].to(device), self.columns.to(device)
        starts = torch.tensor(self.starts)[self.owner][queries].to(device)
        same = (self.owner[queries][:, None] == self.owner[None]).to(device)
        before: Bool[Tensor, "query key"] = torch.arange(prefix, device=device)[None] < starts[:, None]
        kept = base[..., rows, :]
        return torch.cat(
            [kept[..., :prefix].masked_fill(~before, lowest), kept[..., columns].masked_fill(~same, lowest)], -1
        )


def pack(starts: Sequence[int], stop: int) -> Windows:
    """Windows from each start to `stop`, in ascending order of start."""
    return Windows(tuple(sorted(starts)), (stop,) * len(starts))
