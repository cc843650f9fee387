"""How many rows travel together: as many as memory wants, halved when it refuses, with nothing lost."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from circuits.engine.edits import sites_of
from circuits.engine.progress import advance
from circuits.interventions import Cell
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import Site

Job = TypeVar("Job")
_CPU_TOKENS = 512
"""On a CPU larger batches only leave the cache; measured in tests/bench."""
_KEPT = 2**28
"""Bytes of activations kept at once for patches, of both runs together."""
_SHARE = 4
"""Of the free memory a batch may take one part in so many (and at most 1 GiB), unless a limit is given."""


def rows_at_once(model: Model, n_pairs: int, n_pos: int, width: int, max_memory: int | None = None) -> int:
    """Rows of a replay that fit into `max_memory` bytes, or else into a quarter of the free memory (at most 1 GiB).

    At least one: less cannot be run.
    """
    shape = model.shape
    per_token = 3 * shape.d_mlp + 10 * shape.d_model + 3 * n_pos * shape.n_heads
    per_pair = width * per_token + 4 * n_pos * shape.n_heads * shape.d_head
    bytes_per_row = n_pairs * per_pair * torch.finfo(model.dtype).bits // 8
    room = min(free_memory(model.device) // _SHARE, 2**30)
    rows = min(room, max_memory or room) // max(1, bytes_per_row)
    if model.device.type == "cpu":
        rows = min(rows, _CPU_TOKENS // (n_pairs * width))
    return max(1, int(rows))


def groups_of(
    model: Model, tokens: TokenPairs, cells: Sequence[Cell], max_memory: int | None = None
) -> list[list[int]]:
    """Cells that share their kept activations: as many sites together as fit into a quarter of a GiB (or `max_memory`).

    Of all layers at once, wide sites (neurons, products of heads) would fill more memory than the sweep itself.
    """
    size = 2 * tokens.mask.numel() * torch.finfo(model.dtype).bits // 8  # of one entry per column, in both runs
    room = min(max_memory or _KEPT, _KEPT)
    groups: list[list[int]] = [[]]
    kept: set[Site] = set()
    for i in sorted(range(len(cells)), key=lambda i: max((e.site.layer for e in cells[i]), default=0)):
        here = kept | sites_of([cells[i]])
        if groups[-1] and size * sum(math.prod(model.shape.tail(site, tokens.n_pos)) for site in here) > room:
            groups.append([])
            here = sites_of([cells[i]])
        groups[-1].append(i)
        kept = here
    return groups


def free_memory(device: torch.device) -> int:
    """Bytes that nothing uses now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_batches(jobs: list[Job], size: int, run: Callable[[list[Job]], None]) -> None:
    """Call `run` on consecutive batches. A batch that memory refuses is split in two and run again."""
    start = 0
    while start < len(jobs):
        batch = jobs[start : start + size]
        try:
            run(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not _out_of_memory(error):
                raise
            size = (len(batch) + 1) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start += len(batch)
        advance(len(batch) / len(jobs))


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
