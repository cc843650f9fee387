"""How many rows travel together: as many as memory wants, halved when it refuses, with nothing lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch

from circuits.engine.progress import advance
from circuits.model import Model

Job = TypeVar("Job")
_CPU_TOKENS = 512
"""On a CPU larger batches only leave the cache; measured in tests/bench."""


def rows_at_once(model: Model, n_pairs: int, n_pos: int, width: int) -> int:
    """Rows of a replay that fit into a quarter of the free memory (at most 1 GiB)."""
    shape = model.shape
    config = model.hf.config.get_text_config()
    d_mlp = getattr(config, "intermediate_size", None) or 4 * shape.d_model
    per_token = 3 * d_mlp + 10 * shape.d_model + 3 * n_pos * shape.n_heads
    per_pair = width * per_token + 4 * n_pos * shape.n_heads * shape.d_head
    bytes_per_row = n_pairs * per_pair * torch.finfo(model.dtype).bits // 8
    rows = min(_free(model.device) // 4, 2**30) // max(1, bytes_per_row)
    if model.device.type == "cpu":
        rows = min(rows, _CPU_TOKENS // (n_pairs * width))
    return max(1, int(rows))


def _free(device: torch.device) -> int:
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
