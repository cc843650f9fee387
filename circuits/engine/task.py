"""A sweep cut into parts that can be computed anywhere, in any order, and kept one by one.

Pairs go in parts that fit into memory. Within a part, cells that share their kept activations are a group, and a group is
cut into blocks of about the same work: what is lost when a run is killed, and what a worker is given. How a sweep is cut
follows from what it is asked alone, never from the machine, so the same numbers come out of every way of running it
(unless memory is so short that the batches within a block shrink: then the last digits may differ).
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor

from circuits.engine.batches import groups_of
from circuits.engine.edits import columns_of, sites_of
from circuits.engine.transform import of_pair
from circuits.interventions import Cell, Patch
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import Site

if TYPE_CHECKING:
    from collections.abc import Generator

    from circuits.engine.sweep import Direction
    from circuits.metrics import Metric

WORK: Final = 2e13
"""Multiplications in a block: seconds on a GPU, a few minutes on a CPU; a small model's sweep is one block."""
_KEPT_RUNS: Final = 2**32
"""Bytes of residuals, keys and values of both runs kept at once."""
_work: ContextVar[float] = ContextVar("work", default=WORK)


@contextmanager
def blocks_of_work(work: float) -> Generator[None]:
    """Cut sweeps into blocks of so many multiplications within the context."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


def block_work() -> float:
    """Multiplications in a block now."""
    return _work.get()


def work_of_token(model: Model) -> float:
    """Multiplications of one token in one block: about two for every parameter."""
    shape = model.shape
    attention = shape.d_model * shape.d_head * 2 * (shape.n_heads + shape.n_kv_heads)
    return 2.0 * (attention + 3 * shape.d_model * shape.d_mlp)


@final
@dataclass(frozen=True, eq=False)
class Task:
    """Cells to be measured on some pairs."""

    tokens: TokenPairs
    metric: Metric
    cells: tuple[Cell, ...]
    direction: Direction
    max_memory: int | None


@final
@dataclass(frozen=True)
class Block:
    """Some cells of a task; `sites` are what both runs keep for the group of cells that these are of."""

    cells: tuple[int, ...]
    sites: frozenset[Site]


def parts_of(model: Model, task: Task) -> list[range]:
    """Pairs that are run together: as many as leave room for what their two runs keep."""
    shape, n_pos = model.shape, task.tokens.n_pos
    numbers = n_pos * (shape.n_layers + 1) * (shape.d_model + 2 * shape.n_kv_heads * shape.d_head)
    size = 2 * numbers * torch.finfo(model.dtype).bits // 8
    together = max(1, _KEPT_RUNS // size)
    n = task.tokens.n_pairs
    return [range(start, min(start + together, n)) for start in range(0, n, together)]


def on_pairs(model: Model, task: Task, pairs: range) -> Task:
    """The same on some pairs alone."""
    n = task.tokens.n_pairs
    if len(pairs) == n:
        return task
    chosen = list(pairs)

    def of(cell: Cell) -> Cell:
        return tuple(
            _patch_on(model, i, chosen, task.tokens) if isinstance(i, Patch) else of_pair(i, chosen) for i in cell
        )

    return replace(task, tokens=task.tokens.select(chosen), cells=tuple(map(of, task.cells)))


def blocks_of(model: Model, task: Task) -> list[Block]:
    """Every cell, once."""
    work = _Work(model, task.tokens)
    blocks: list[Block] = []
    for group in groups_of(model, task.tokens, task.cells, task.max_memory):
        sites = frozenset(sites_of([task.cells[i] for i in group]))
        mine: list[int] = []
        done = 0.0
        for i in group:
            more = work.of(task.cells[i])
            if mine and done + more > _work.get():
                blocks.append(Block(tuple(mine), sites))
                mine, done = [], 0.0
            mine.append(i)
            done += more
        blocks.append(Block(tuple(mine), sites))
    return blocks


def _patch_on(model: Model, patch: Patch, pairs: list[int], tokens: TokenPairs) -> Patch:
    value: Tensor | None = patch.value
    whole = 2 + len(model.shape.tail(patch.site, tokens.n_pos))
    if value is None or value.ndim < whole or len(value) == 1:
        return patch
    return replace(patch, value=value[pairs])


@final
class _Work:
    """Multiplications of a cell: its tokens through the blocks above it."""

    def __init__(self, model: Model, tokens: TokenPairs) -> None:
        self._tokens, self._n_layers = tokens, model.shape.n_layers
        self._of_one = work_of_token(model) * tokens.n_pairs
        self._first: dict[object, int] = {}

    @cached_property
    def _start(self) -> int:
        return self._tokens.first_difference

    def of(self, cell: Cell) -> float:
        if not cell:
            return 0.0
        layers = self._n_layers - min(i.site.layer for i in cell)
        start = min(self._column(i.positions) for i in cell)
        return self._of_one * layers * (self._tokens.n_pos - max(start, self._start))

    def _column(self, where: object) -> int:
        """The first column edited in any pair."""
        key = where if isinstance(where, str | int) else repr(where)
        if key not in self._first:
            columns = columns_of(self._tokens, where).any(0).nonzero()  # pyright: ignore[reportArgumentType]
            self._first[key] = int(columns[0]) if len(columns) else self._tokens.n_pos
        return self._first[key]
