"""The same weights in fp32 for a while: what reduced precision costs is measured, not guessed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from circuits.engine.batches import free_memory
from circuits.model import Model


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
