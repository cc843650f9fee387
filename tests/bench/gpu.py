"""The full set of single-position sweeps on a device, on gemma-2b's true shape: seconds, share of the peak, memory.

    python tests/bench --only gpu                    # on a machine with a device
    python tests/bench --only gpu --small --layers 2 # anywhere, to try it out

The peak is what a large matrix product of the same dtype reaches on the same device in the same process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from bound import bound, costs_of
from measure import flops, timed
from models import Size, random_model, random_pairs
from page import Table, percent, section
from sweeps import sweeps

from circuits.engine import sweep
from circuits.metrics import RefusalMetric

SETS = ("resid_pre", "attn_out", "mlp_out", "z")
DIRECTIONS: tuple[Literal["denoise", "noise"], ...] = ("denoise", "noise")


def measure(size: Size) -> dict[str, Any]:
    """One line for every dtype."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table(
        ["dtype", "cells", "seconds", "share of the peak", "peak, TFLOP/s", "our work", "weights", "memory on top"],
        wide=10,
    ).head()
    for dtype in ("bfloat16", "float32"):
        table.add(dtype, *_set(size, dtype, device))
    return section(size.line, table=table.text)


def _set(size: Size, dtype: Literal["bfloat16", "float32"], device: str) -> Iterator[str]:
    model = random_model(size, dtype=dtype, device=device)
    tokens, metric = random_pairs(size, model), RefusalMetric(model, "w9")
    known = sweeps(model, tokens)
    lists = [known[name].cells for name in SETS]
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())

    def run(direction: Literal["denoise", "noise"]) -> None:
        for cells in lists:
            sweep(model, tokens, metric, cells, direction=direction, audited=False)

    sweep(model, tokens, metric, lists[0][-tokens.n_pos :], audited=False)  # kernels are chosen and loaded once
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = sum(timed(lambda d=d: run(d))[1] for d in DIRECTIONS)
    memory = torch.cuda.max_memory_allocated() - weights if device == "cuda" else None
    work = 2 * flops(lambda: run("denoise"))  # both directions run the same
    costs = costs_of(model, linear=True)
    least = 2 * sum(bound(costs, cells, tokens).flops for cells in lists)
    top = peak(model.dtype, device, 8192 if device == "cuda" else 1024)
    yield str(2 * sum(map(len, lists)))
    yield f"{seconds:.1f}"
    yield percent(work / seconds / top)
    yield f"{top / 1e12:.1f}"
    yield percent(work / least)
    yield f"{weights / 1e9:.1f} GB"
    yield "not told" if memory is None else f"{memory / 1e9:.2f} GB"


def peak(dtype: torch.dtype, device: str, n: int) -> float:
    """Operations per second of the fastest of a few products of n × n."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * n**3 / min(timed(lambda: torch.mm(a, b))[1] for _ in range(10))
