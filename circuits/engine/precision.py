"""What reduced precision costs, measured on the same weights in fp32 and not guessed.

A right fast way is about as far from fp32 as the plain slow way in the same dtype is; a wrong one is further.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.batches import free_memory
from circuits.model import Model

REDUCED: Final = (torch.bfloat16, torch.float16)
FACTOR: Final = 3.0
"""How many times further from fp32 than the slow way the sweep may be.

Where both round alike, a right sweep is never beyond it. If they rounded independently, normally and equally far, the
larger of two distances would be beyond three times the largest of twelve three times in ten thousand."""


@final
@dataclass(frozen=True)
class Rounding:
    """Largest distances from fp32, in units of the metric."""

    cells: float
    """Of the sweep, on the audited cells."""
    slow: float
    """Of whole forward passes in the sweep's dtype: these cells, and some prompts of both runs."""
    allowed: float
    """What `cells` may be: `FACTOR` times `slow`, but no less than the dtype rounds a number as large as the metric."""


def rounding(
    dtype: torch.dtype, cells: Float[Tensor, " cell"], slow: Float[Tensor, " row"], largest: float
) -> Rounding:
    """Judge differences from fp32, those of a sweep's cells by those of the slow way; `largest` is the metric's size.

    A slow way that is not finite allows nothing.
    """
    found, worst = (gaps.abs().max().nan_to_num(math.inf, math.inf).item() for gaps in (cells, slow))
    unit = torch.finfo(dtype).eps / 2  # of a number of size 1, the largest error of rounding to nearest
    return Rounding(found, worst, max(FACTOR * worst, unit * largest) if math.isfinite(worst) else 0.0)


def fits_in_fp32(model: Model) -> bool:
    """Whether there is room for a second set of weights in fp32."""
    needed = 4 * sum(p.numel() for p in model.hf.parameters())
    return 1.1 * needed < free_memory(model.device)


@contextmanager
def in_fp32(model: Model) -> Generator[None]:
    """Compute in fp32 within the context. Weights are widened (exactly) and put back, buffers are left as they are."""
    kept = [(p, p.data) for p in model.hf.parameters()]
    try:
        for parameter, data in kept:
            parameter.data = data.to(torch.float32)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
