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
